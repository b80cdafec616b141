"""The method lora: PEFT's adapters trained by the recipe, saved, resumed, read again by us and by PEFT, merged."""

import json
import re
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from models import CONFIGS, bits, build, same
from safetensors.torch import load_file, save_file
from tiny_runs import FAST, assert_same, silent
from tiny_task import save_model, sentences, tokenizer, write_data
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, BertForMaskedLM
from typer.testing import CliRunner

from clm_kernels.cli import app
from clm_kernels.finetune import Classifier, TrainConfig, train
from clm_kernels.finetune.lora import Adapter, targets
from clm_kernels.finetune.methods import resolved
from clm_kernels.finetune.models import load
from clm_kernels.finetune.tasks import TASKS
from clm_kernels.finetune.trainer import RunTrainer
from clm_kernels.tensors import write_tensors

peft = pytest.importorskip("peft")

TEXTS = ["my refund", "where is the parcel please", "password"]
RANK, HIDDEN = 4, 32


@pytest.fixture(scope="module")
def lora(base):
    return replace(base, method="lora", lora_rank=RANK, learning_rate=2e-2)


@pytest.fixture(scope="module")
def adapted(lora, tmp_path_factory):
    """A finished run: its config and report."""
    config = replace(lora, output=str(tmp_path_factory.mktemp("lora") / "out"))
    return config, train(config, silent)


def tensors_of(output):
    return load_file(Path(output) / "adapter_model.safetensors")


def logits(model, classifier):
    batch = classifier.tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        return model.eval()(**batch).logits


# Training


def test_it_learns_with_low_rank_matrices_and_the_head_alone(adapted):
    config, report = adapted
    assert report.test["accuracy"] > 0.8
    assert report.trained == 2 * 2 * RANK * (HIDDEN + HIDDEN) + 3 * HIDDEN + 3  # layers x (query, value), classifier
    before = load_file(Path(config.data.model) / "model.safetensors")
    model = Classifier.load(config.run.output).model
    after = {name.replace(".base_layer", ""): tensor for name, tensor in model.bert.state_dict().items() if "lora_" not in name}
    assert_same({name: before[name] for name in after}, after)
    matrices = [tensor for name, tensor in tensors_of(config.run.output).items() if "lora_B" in name]
    assert len(matrices) == 4 and all(matrix.any() for matrix in matrices)  # they begin at 0


def test_what_stands_in_the_folder(adapted):
    config, report = adapted
    output = Path(config.run.output)
    assert {path.name for path in output.iterdir()} == {
        "README.md", "adapter_config.json", "adapter_model.safetensors", "config.json", "report.html", "report.json", "run.json", "run.yaml",
        "scope.safetensors", "selection.safetensors", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    written = json.loads((output / "adapter_config.json").read_text())
    assert (written["r"], written["lora_alpha"], written["lora_dropout"]) == (RANK, 32, 0.1)
    assert (written["task_type"], written["modules_to_save"]) == ("SEQ_CLS", ["classifier"])
    assert written["base_model_name_or_path"] == config.data.model
    size = (output / "adapter_model.safetensors").stat().st_size
    assert report.sizes["adapter"] == size < report.sizes["checkpoint"]
    plain = AutoModelForSequenceClassification.from_pretrained(config.data.model, num_labels=3)
    assert report.sizes["checkpoint"] == sum(parameter.nbytes for parameter in plain.parameters())


def test_the_paper_is_the_default():
    config = resolved(TrainConfig(method="lora"), TASKS["sequence"])
    lora = config.lora
    assert (lora.lora_rank, lora.lora_alpha, lora.lora_dropout, lora.lora_targets) == (12, 32, 0.1, "query,value")
    assert config.training.weight_decay == 0


@pytest.mark.parametrize(
    ("options", "trained", "rank", "scale"),
    [({"lora_targets": "all-linear", "layers": "upper half"}, 4 * 2 + 2 * 80 / 32, RANK, 32 / RANK),
     ({"lora_targets": "value, output.dense", "lora_rank": 2, "lora_alpha": 1.0}, (2 + 2 + 80 / 32) * 2, 2, 0.5)],
)  # fmt: skip
def test_rank_scale_dropout_and_targets_are_the_configs(lora, tmp_path, options, trained, rank, scale):
    config = replace(lora, output=str(tmp_path / "o"), epochs=1, lora_dropout=0.25, **options)
    report = train(config, silent)
    assert report.trained == trained * HIDDEN * rank + 3 * HIDDEN + 3
    layers = [module for module in Classifier.load(config.run.output).model.modules() if hasattr(module, "lora_A")]
    assert {layer.scaling["default"] for layer in layers} == {scale}
    assert {layer.lora_dropout["default"].p for layer in layers} == {0.25}


def test_the_best_checkpoint_is_kept_and_its_scores_are_the_saved_models(lora, tmp_path):
    report = train(replace(lora, output=str(tmp_path / "o"), learning_rate=0.1, scheduler="constant", epochs=6), silent)
    assert report.best["accuracy"] > report.history[-1]["accuracy"]
    classifier = Classifier.load(tmp_path / "o")
    for part, scores in (("validation", report.best), ("test", report.test)):
        rows = [json.loads(line) for line in Path(lora.options()[part]).read_text().splitlines()]
        found = [prediction.label for prediction in classifier.predict([row["text"] for row in rows])]
        assert sum(label == row["label"] for label, row in zip(found, rows, strict=True)) / len(rows) == scores["accuracy"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_resume_equals_no_break_bit_for_bit(lora, tmp_path, monkeypatch, dtype):
    config = replace(lora, dtype=dtype, gradient_accumulation=2, epochs=4)
    whole = train(replace(config, output=str(tmp_path / "a")), silent)
    original, count = RunTrainer.training_step, [0]

    def training_step(self, *args, **kwargs):
        count[0] += 1
        if count[0] == 9:
            signal.raise_signal(signal.SIGINT)
        return original(self, *args, **kwargs)

    with monkeypatch.context() as context:
        context.setattr(RunTrainer, "training_step", training_step)
        with pytest.raises(KeyboardInterrupt):
            train(replace(config, output=str(tmp_path / "b")), silent)
    assert not (tmp_path / "b" / "report.json").exists()
    resumed = train(TrainConfig(output=str(tmp_path / "b"), resume=True), silent)
    assert [line["loss"] for line in resumed.history] == [line["loss"] for line in whole.history]
    tensors = tensors_of(tmp_path / "a")
    assert {tensor.dtype for tensor in tensors.values()} == {getattr(torch, dtype)}
    assert_same(tensors, tensors_of(tmp_path / "b"))


# Targets


@pytest.mark.parametrize(
    ("family", "names"),
    [("bert", {"query", "value"}), ("roberta", {"query", "value"}), ("distilbert", {"q_lin", "v_lin"}),
     ("deberta", {"query_proj", "value_proj"}), ("deberta-v1", {"in_proj"}), ("modernbert", {"Wqkv"}), ("albert", {"query", "value"}),
     ("mpnet", {"q", "v"}), ("llama", {"q_proj", "v_proj"}), ("qwen3", {"q_proj", "v_proj"}), ("gemma3", {"q_proj", "v_proj"}),
     ("gpt2", {"c_attn"}), ("falcon", {"query_key_value"})],
)  # fmt: skip
def test_query_and_value_by_family(family, names):
    model = build(family)
    found = targets(model)
    assert {name.rpartition(".")[2] for name in found} == names
    assert len(found) == len(names) * (1 if family == "albert" else 2)  # albert's layers share their weights
    assert set(found) < set(targets(model, "all-linear"))


def test_targets_by_name_and_layer():
    model = build("llama")
    assert targets(model, "key,up_proj", "upper half") == ["model.layers.1.self_attn.k_proj", "model.layers.1.mlp.up_proj"]
    assert targets(model, "1.self_attn.o_proj") == ["model.layers.1.self_attn.o_proj"]
    for name in ("proj", "embed_tokens", "score"):
        with pytest.raises(ValueError, match=rf"lora_targets must be 'all-linear'.*q_proj.* of Llama\w+, got '{name}'"):
            targets(model, f"query,{name}")


# Reading it again


@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta", "modernbert", "qwen3", "gpt2"])
def test_peft_reads_it_with_the_same_outputs_and_export_needs_neither(family, tmp_path):
    config = TrainConfig(
        model=save_model(tmp_path / "model", family, pad_token_id=0), output=str(tmp_path / "o"), **write_data(tmp_path, count=16)
    )
    train(replace(config, **FAST | {"epochs": 1, "pooling": "native"}).replace(method="lora"), silent)
    classifier = Classifier.load(config.run.output)
    ours = logits(classifier.model, classifier)
    plain = AutoModelForSequenceClassification.from_pretrained(config.data.model, num_labels=3)
    assert torch.equal(logits(peft.PeftModel.from_pretrained(plain, config.run.output), classifier), ours)
    classifier.export(tmp_path / "whole")
    exported, info = AutoModelForSequenceClassification.from_pretrained(tmp_path / "whole", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    torch.testing.assert_close(logits(exported, classifier), ours, rtol=1e-4, atol=1e-5)
    again = Classifier.load(tmp_path / "whole")
    assert [p.label for p in again.predict(TEXTS)] == [p.label for p in Classifier.load(config.run.output).predict(TEXTS)]


def test_an_adapter_is_taken_out_again_head_and_all(adapted):
    config, report = adapted
    loaded = load(config.data.model, TASKS["sequence"], report.labels)
    before, trained = bits(loaded.model), [p.requires_grad for p in loaded.model.parameters()]
    handle = Adapter.load(Path(config.run.output)).apply(loaded)
    assert loaded.model.config.clm_pooling == "mean" and not same(bits(loaded.model), before)
    handle.restore()
    assert same(bits(loaded.model), before) and [p.requires_grad for p in loaded.model.parameters()] == trained
    assert loaded.model.config.clm_pooling == "native" and not hasattr(loaded.model, "peft_config")


def test_an_adapter_of_the_former_format_is_read_as_before(adapted, tmp_path):
    output = Path(shutil.copytree(adapted[0].run.output, tmp_path / "o"))
    adapter, file = Adapter.load(output), output / "adapter_model.safetensors"
    known = adapter.recipe
    made = {"task": known.task, "model": known.model, "max_length": known.max_length, "pooling": known.pooling}
    made |= {"template": known.template, "dtype": known.dtype, **known.details}
    metadata = {"format": "pt", "labels": json.dumps(adapter.labels), "originals": json.dumps(adapter.originals)}
    write_tensors(file, adapter.tensors, metadata | {"made": json.dumps(made)})
    assert Adapter.load(output).recipe == known and known.details["config"]["lora_rank"] == RANK
    assert list(Classifier.load(output).predict(TEXTS)) == list(Classifier.load(adapted[0].run.output).predict(TEXTS))


def test_words_and_tags(tmp_path):
    config = TrainConfig(model=save_model(tmp_path / "model"), output=str(tmp_path / "o"), **write_data(tmp_path, sentences))
    report = train(replace(config, **FAST).replace(method="lora"), silent)
    assert report.test["f1"] > 0.9
    classifier = Classifier.load(config.run.output)
    (prediction,) = classifier.predict([["Anna", "Smith", "lives", "in", "Rome"]])
    assert prediction.label == ["B-PER", "I-PER", "O", "O", "B-LOC"]
    plain = AutoModelForTokenClassification.from_pretrained(config.data.model, num_labels=4)
    read = peft.PeftModel.from_pretrained(plain, config.run.output)
    assert torch.equal(logits(read, classifier), logits(classifier.model, classifier))


def test_a_pooler_that_the_checkpoint_lacks_is_part_of_the_head(lora, tmp_path):
    make, sizes = CONFIGS["bert"]
    BertForMaskedLM(make(**sizes, pad_token_id=0, max_position_embeddings=32)).save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    config = replace(lora, model=str(tmp_path / "model"), output=str(tmp_path / "o"), pooling="native", epochs=1)
    train(config, silent)
    assert json.loads((tmp_path / "o" / "adapter_config.json").read_text())["modules_to_save"] == ["bert.pooler", "classifier"]
    first, second = (logits(Classifier.load(config.run.output).model, Classifier.load(config.run.output)) for _ in range(2))
    assert torch.equal(first, second)


def test_the_command_line(lora, adapted, tmp_path):
    run = CliRunner().invoke
    options = [f"--{name}={lora.options()[name]}" for name in ("model", "train", "validation", "test")]
    options += ["--method=lora", "--lora-rank=2", "--lora-targets=all-linear", "--epochs=1", f"--output={tmp_path / 'o'}"]
    result = run(app, ["train", *options])
    assert result.exit_code == 0, result.output
    assert "adapter" in result.output
    answers = []
    for arguments in (
        ["--model", adapted[0].run.output],
        ["--model", lora.data.model, "--delta", f"{adapted[0].run.output}/adapter_model.safetensors"],
    ):
        answers.append(run(app, ["predict", *arguments], input="my refund\nwhere is the parcel\n"))
    assert run(app, ["export", "--model", adapted[0].run.output, "--output", str(tmp_path / "whole")]).exit_code == 0
    answers.append(run(app, ["predict", "--model", str(tmp_path / "whole")], input="my refund\nwhere is the parcel\n"))
    assert {answer.stdout for answer in answers} == {answers[0].stdout}
    assert [line.split("\t")[0] for line in answers[0].stdout.splitlines()] == ["billing", "delivery"]


# Mistakes


def test_without_peft(lora, adapted, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(RuntimeError, match=r'^train: the package peft is needed: pip install "clm-kernels\[lora\]"$'):
        train(replace(lora, output=str(tmp_path / "o")), silent)
    with pytest.raises(RuntimeError, match=r'^Adapter.load: the package peft is needed: pip install "clm-kernels\[lora\]"$'):
        Classifier.load(adapted[0].run.output)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    "field",
    [{"lora_rank": 0}, {"lora_alpha": 0.0}, {"lora_dropout": 1.0}, {"lora_dropout": -0.1}, {"lora_targets": " , "},
     {"lora_targets": "query,nothing"}, {"merge_tokens": 5}],
)  # fmt: skip
def test_bad_values(lora, tmp_path, field):
    ((name, value),) = field.items()
    with pytest.raises(ValueError, match=rf"^train: {name} must be .*, got .*{re.escape(str(value).split(',')[-1])}") as caught:
        train(replace(lora, output=str(tmp_path / "o"), **field), silent)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "o").exists()


def test_another_base_or_an_altered_file_is_refused(lora, adapted, tmp_path):
    output = Path(shutil.copytree(adapted[0].run.output, tmp_path / "o"))
    file = output / "adapter_model.safetensors"
    with pytest.raises(ValueError, match="the base's that this adapter was trained on"):
        Classifier.load(save_model(tmp_path / "other", seed=1), file)
    tensors = load_file(file)
    (output / "adapter_config.json").rename(output / "config")
    with pytest.raises(ValueError, match=r"a folder with adapter_config\.json"):
        Classifier.load(output)
    (output / "config").rename(output / "adapter_config.json")
    content = file.read_bytes()
    for damaged in (content[: len(content) // 2], content[:-4] + b"\1\2\3\4"):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"Adapter\.load: .*(truncated|altered)"):
            Classifier.load(output)
    save_file(tensors, file)
    with pytest.raises(ValueError, match="one that clm_kernels wrote, got one without a checksum"):
        Classifier.load(output)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"r": 10**9}, f"r in '.*' must be from 1 to {RANK} as in the tensors"),
        ({"r": "8"}, f"r in '.*' must be from 1 to {RANK} as in the tensors"),
        ({"rank_pattern": {"query": 10**9}}, "must be one that the method lora left, got one with 'rank_pattern'"),
        ({"rank_pattern": 3}, "must be one that the method lora left, got one with 'rank_pattern'"),
        ({"megatron_config": {}, "megatron_core": "os"}, "must be one that the method lora left, got one with 'megatron_core'"),
        ({"peft_type": "LOHA"}, "must be of LoRA, got 'LOHA'"),
        ({"peft_type": []}, r"must be of LoRA, got \[\]"),
        (None, "must be a JSON object, got text that must be JSON of at most 32 levels"),
    ],
)
def test_a_strangers_config_asks_for_no_more_than_the_tensors(adapted, tmp_path, change, message):
    output = Path(shutil.copytree(adapted[0].run.output, tmp_path / "o"))
    config = output / "adapter_config.json"
    described = json.loads(config.read_text())
    config.write_text("[" * 10_000 if change is None else json.dumps(described | change))
    with pytest.raises(ValueError, match=rf"^(Adapter.load|read_adapter_config|read_config): .*{message}"):
        Adapter.load(output)


def test_a_failure_in_the_middle_leaves_no_trace(adapted, monkeypatch):
    config, report = adapted
    loaded = load(config.data.model, TASKS["sequence"], report.labels)
    before, told = bits(loaded.model), loaded.model.config.to_dict()
    real = peft.set_peft_model_state_dict

    def fails(*given):
        real(*given)
        raise KeyboardInterrupt

    monkeypatch.setattr(peft, "set_peft_model_state_dict", fails)
    with pytest.raises(KeyboardInterrupt):
        Adapter.load(Path(config.run.output)).apply(loaded)
    assert same(bits(loaded.model), before) and loaded.model.config.to_dict() == told
