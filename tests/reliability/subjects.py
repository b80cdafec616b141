"""Tiny files of every kind that the package reads, each with what reads it and uses what it has read."""

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import torch
from models import build
from mutations import altered, damaged, retensored, text_of
from peft import LoraConfig
from safetensors.torch import save
from tiny_task import save_model, tokenizer

import clm_kernels as clm
from clm_kernels.extension import Extension, NewToken
from clm_kernels.finetune import manifest
from clm_kernels.finetune.artifacts import ADAPTER, ADAPTER_CONFIG
from clm_kernels.finetune.checkpoints import usable_checkpoint
from clm_kernels.finetune.circumstances import check_circumstances
from clm_kernels.finetune.examples import read_examples
from clm_kernels.finetune.lora import Adapter, adapt
from clm_kernels.finetune.models import load as load_model
from clm_kernels.finetune.outputs import recorded_config
from clm_kernels.finetune.tasks import TASKS
from clm_kernels.finetune.words.table import ActiveWords, WordEnergy
from clm_kernels.fingerprint import checksum, fingerprint
from clm_kernels.models.attention import bidirectional_layers
from clm_kernels.models.pooling import current_pooling
from clm_kernels.models.structure import weights
from clm_kernels.tensors import read_tensors
from clm_kernels.token_groups.groups import TokenGroup, TokenGroups

SMALL = {"num_hidden_layers": 1, "vocab_size": 16, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}


@dataclass
class Subject:
    """A kind of file.

    Attributes:
        write: (draw, folder) -> the path of a damaged file in it; without a draw, of the file as it should be.
        read: of that path, and uses what it gives.
        share: of all files that are tried.
    """

    write: Callable[[Any, Path], Path]
    read: Callable[[Path], Any]
    share: float


def state(model) -> tuple:
    """Everything that a delta may change in a model."""
    embedding = model.get_input_embeddings()
    told = json.dumps(model.config.to_dict(), sort_keys=True, default=str), sorted(vars(model)), sorted(vars(model.config))
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    sizes = embedding.num_embeddings, embedding.padding_idx, current_pooling(model), bidirectional_layers(model)
    return checksum(model.state_dict(), {}), told, hooks, sizes


def grown_delta(model, layers=None) -> clm.Delta:
    """A delta that changes everything there is to change: values, head, pooling, attention, embedding."""
    named = weights(model)
    embedding = next(name for name in named if named[name] is model.get_input_embeddings().weight)
    other = next(name for name in named if named[name].dim() == 2 and name != embedding and ("layer" in name or "h.0" in name))
    rows, columns = named[embedding].shape
    tokens = tuple(NewToken(f"{text} now", rows + i, (3, 4 + i), False) for i, text in enumerate("ab"))
    extension = Extension(embedding, rows, columns, fingerprint(named[embedding]), tokens)
    selection = clm.Selection({
        embedding: extension.entries,
        other: clm.Entries.of("columns", [0, 2], tuple(named[other].shape)),
    })  # fmt: skip
    values = {name: torch.ones(entries.compact_shape) for name, entries in selection.items()}
    whole = {name: torch.ones_like(named[name]) for name in named if name.startswith(("classifier", "score"))}
    held = clm.ops.gather(named[other].detach(), selection[other])
    originals = {embedding: fingerprint(named[embedding]), other: fingerprint(held)}
    recipe = clm.Recipe("sequence", "/base", 9, "mean", layers, dtype="float32", details={"config": {"lr": 0.01}, "best": [1]})
    return clm.Delta(selection, values, whole, originals, ["a", "b", "c"], recipe, extension)


def signed(draw, tensors, metadata) -> bytes:
    """A safetensors file with a checksum that matches, whatever is in it; or with a header that does not."""
    way = draw.random() if draw else 1.0
    if way < 0.5:
        metadata = altered(draw, metadata)
        metadata = (
            {str(k): v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items()}
            if isinstance(metadata, dict)
            else {}
        )
    elif way < 0.7:
        tensors = retensored(draw, tensors)
    content = save(tensors, metadata | {"checksum": checksum(tensors, metadata)})
    if 0.7 <= way < 0.85:
        length = int.from_bytes(content[:8], "little")
        header = text_of(draw, altered(draw, json.loads(content[8 : 8 + length]))).encode(errors="replace")
        content = len(header).to_bytes(8, "little") + header + content[8 + length :]
    return damaged(draw, content) if 0.85 <= way < 1 else content


def tensors_subject(read, share, *made) -> Subject:
    def write(draw, folder: Path) -> Path:
        path = folder / "file.safetensors"
        path.write_bytes(signed(draw, *(draw.choice(made) if draw else made[0])))
        return path

    return Subject(write, read, share)


def json_subject(name, described, read, share) -> Subject:
    def write(draw, folder: Path) -> Path:
        text = json.dumps(described) if draw is None else text_of(draw, altered(draw, described))
        data = text.encode(errors="replace")
        (folder / name).write_bytes(damaged(draw, data) if draw and draw.random() < 0.15 else data)
        return folder / name

    return Subject(write, read, share)


def delta_reader(models) -> Callable[[Path], Any]:
    known = [(model, state(model)) for model in models]

    def read(path: Path) -> None:
        delta, refused = clm.Delta.load(path), []
        for model, before in known:
            try:
                delta.apply(model).restore()
            except ValueError as error:
                refused.append(error)
            assert state(model) == before, "a delta has left something behind"
        if len(refused) == len(known):
            raise refused[0]

    return read


def folder_subject(folder: Path, share) -> Subject:
    save_model(folder)
    names = ("config.json", "tokenizer.json", "tokenizer_config.json")
    model = build(vocab_size=64)
    model.config.architectures, model.config.id2label = ["BertForSequenceClassification"], {0: "a", 1: "b", 2: "c"}
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    contents = {name: (folder / name).read_text() for name in names}

    def write(draw, _: Path) -> Path:
        for name, text in contents.items():
            (folder / name).write_text(text)
        if draw:
            name = draw.choice(names)
            data = text_of(draw, altered(draw, json.loads(contents[name]))).encode(errors="replace")
            (folder / name).write_bytes(damaged(draw, data) if draw.random() < 0.1 else data)
        return folder

    def read(path: Path) -> None:
        classifier = clm.Classifier.load(path)
        list(classifier.predict(["my refund"]))

    return Subject(write, read, share)


def manifest_subject(folder: Path, share) -> Subject:
    """A checkpoint whose manifest was altered by somebody who seals it again, or not."""
    checkpoint = folder / "checkpoint-3"
    checkpoint.mkdir(parents=True)
    (checkpoint / "optimizer.pt").write_bytes(b"moments")
    versions = {"torch": "2", "threads": "1"}
    run = {
        "model": {"weights": "a", "config.json": "b", "files": {"tokenizer.json": "d"}},
        "tokens": {"train": "c"},
        "processes": 1,
        "versions": versions,
    }
    manifest.seal(checkpoint, step=3, best=3, run=run)
    content = json.loads((checkpoint / manifest.MANIFEST).read_text())

    def write(draw, _: Path) -> Path:
        told = altered(draw, content) if draw else content
        if isinstance(told, dict) and (draw is None or draw.random() < 0.8):
            told.pop(manifest.SEAL, None)
            told[manifest.SEAL] = manifest._of_json(told)
        data = json.dumps(told).encode() if draw is None else text_of(draw, told).encode(errors="replace")
        (checkpoint / manifest.MANIFEST).write_bytes(damaged(draw, data) if draw and draw.random() < 0.1 else data)
        return folder

    def read(path: Path) -> None:
        found, wrong = usable_checkpoint(path, [], lambda line: None)
        if found is None:
            raise ValueError(f"usable_checkpoint: {wrong}")
        check_circumstances(manifest.read_manifest(found)["run"], run, lambda line: None)

    return Subject(write, read, share)


def adapter_subject(folder: Path, share) -> Subject:
    """What the method lora leaves, its config or its tensors altered."""
    base, made = folder / "base", folder / "run"
    save_model(base)
    made.mkdir()
    loaded = load_model(str(base), TASKS["sequence"], ["a", "b"], "mean", "float32", "", "{text}", "none")
    with adapt(loaded.model, loaded.head, LoraConfig(r=2, target_modules=["query"], init_lora_weights=False)):
        Adapter.of(loaded, ["a", "b"], clm.Recipe("sequence", str(base), 9, "mean", dtype="float32")).save(made)
    config = json.loads((made / ADAPTER_CONFIG).read_text())
    tensors, metadata = read_tensors(made / ADAPTER, "made")
    metadata.pop("checksum", None)

    def write(draw, _: Path) -> Path:
        (made / ADAPTER_CONFIG).write_text(json.dumps(config))
        (made / ADAPTER).write_bytes(signed(None, tensors, metadata))
        if draw and draw.random() < 0.5:
            (made / ADAPTER_CONFIG).write_bytes(text_of(draw, altered(draw, config)).encode(errors="replace"))
        elif draw:
            (made / ADAPTER).write_bytes(signed(draw, tensors, metadata))
        return made

    def read(path: Path) -> None:
        before = state(loaded.model)
        try:
            Adapter.load(path).apply(loaded).restore()
        finally:
            assert state(loaded.model) == before, "an adapter has left something behind"

    return Subject(write, read, share)


def table_subject(share) -> Subject:
    """Texts with labels, in each format of tables."""
    rows = [{"text": "my refund", "label": "a"}, {"text": 'of "two" lines', "label": "b"}]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    parquet = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), parquet)
    contents = {
        "data.jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode(),
        "data.csv": b'text,label\n"my ""refund""",a\n"of two\nlines",b\n',
        "data.tsv": b"text\tlabel\nmy refund\ta\n",
        "data.parquet": parquet.getvalue(),
    }

    def write(draw, folder: Path) -> Path:
        name = draw.choice(sorted(contents)) if draw else "data.parquet"
        data = contents[name]
        if draw and name == "data.jsonl" and draw.random() < 0.6:
            data = text_of(draw, altered(draw, rows[0])).encode(errors="replace")
        (folder / name).write_bytes(damaged(draw, data) if draw else data)
        return folder / name

    def read(path: Path) -> None:
        list(read_examples(str(path), TASKS["sequence"], clm.TrainConfig(model="", train="", output="").data))

    return Subject(write, read, share)


def subjects(folder: Path) -> dict[str, Subject]:
    """All of them; `folder` is where checkpoints are kept."""
    bert, llama = build(**SMALL), build("llama", **SMALL, num_key_value_heads=1, head_dim=4)
    deltas = []
    for model, layers in ((bert, None), (llama, (0, 1))):
        grown_delta(model, layers).save(folder / "made.safetensors")
        tensors, metadata = read_tensors(folder / "made.safetensors", "made")
        deltas.append((tensors, metadata))
    former = {name: value for name, value in metadata.items() if name not in ("recipe", "extension")}
    made = json.dumps({"task": "sequence", "max_length": 9, "pooling": "max", "dtype": "float32", "best": {"f1": 0.5}})
    deltas.append((tensors, former | {"format": "clm_kernels.delta/1", "made": made}))
    kinds = {"r": ("rows", None), "c": ("columns", None), "b": ("blocks", (2, 2)), "e": ("elements", None)}
    selection = clm.Selection({n: clm.Entries.of(kind, [0, 2], (4, 6), block) for n, (kind, block) in kinds.items()})
    group = TokenGroup("a b", ("a", "b"), (3, 4), "x", 1.5, 2.0, 3, 4)
    groups = TokenGroups({"x": [group]}, {"x": 9}, "log-odds", 5, 4)
    words = ActiveWords({"x": [WordEnergy("a", 0.5, None, 3)]}, "0.99", {"early": 1, "late": 0}, ["[SEP]"])
    config = clm.TrainConfig(model="/m", train="/t", output="/o").options()
    recipe = clm.Recipe("sequence", "/base", 9, "mean", (0, 1), details={"a": 1})

    def read_groups(path):
        return TokenGroups.load(path).positions([1, 3, 4])

    def read_recipe(path):
        return clm.Recipe.from_json(path.read_text(errors="replace")).to_json()

    def read_selection(path):
        return str(clm.Selection.load(path))

    def read_words(path):
        return ActiveWords.load(path).best()

    plain = {name: value for name, value in asdict(groups).items() if name != "_runs"}
    return {
        "delta": tensors_subject(delta_reader([bert, llama]), 0.3, *deltas),
        "selection": tensors_subject(read_selection, 0.2, selection.to_tensors()),
        "tensors": tensors_subject(lambda path: read_tensors(path, "read"), 0.1, ({"a": torch.ones(2, 3)}, {"format": "f"})),
        "token groups": json_subject("groups.json", plain, read_groups, 0.08),
        "recipe": json_subject("recipe.json", asdict(recipe), read_recipe, 0.08),
        "run.json": json_subject("run.json", {"config": config, "data": {}}, lambda path: recorded_config(path.parent), 0.06),
        "active words": json_subject("words.json", {"format": "clm_kernels.active_tokens/1", **asdict(words)}, read_words, 0.06),
        "model folder": folder_subject(folder / "checkpoint", 0.02),
        "manifest": manifest_subject(folder / "manifest", 0.04),
        "adapter": adapter_subject(folder / "adapter", 0.02),
        "table": table_subject(0.06),
    }


def copy_of(path: Path, to: Path) -> None:
    """Keeps what broke something."""
    shutil.copytree(path, to, dirs_exist_ok=True) if path.is_dir() else shutil.copy(path, to)
