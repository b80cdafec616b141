"""Nothing that a run depends on can change without a word when it goes on."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from command_line import run as command
from damaging import going_on
from interruption import stop
from models import build
from tiny_runs import silent, trained_tensors
from tiny_task import save_model, write_data

from clm_kernels.finetune import TrainConfig, circumstances, train
from clm_kernels.finetune.config import Training
from clm_kernels.finetune.manifest import read_manifest, seal
from clm_kernels.finetune.outputs import beside
from clm_kernels.finetune.run_file import load_run_file
from clm_kernels.ops import registry


@pytest.fixture(scope="module")
def stopped(base, tmp_path_factory):
    """A folder with a base model, data, and a run that was stopped after step 8; and what it leaves without a break."""
    folder = tmp_path_factory.mktemp("stopped")
    options = {"select": "random", "model": save_model(folder / "model"), **write_data(folder), "density": 0.25}
    train(replace(base, **options, output=str(folder / "whole")), silent)
    stop(replace(base, **options, output=str(folder / "run")), 8)
    return folder, trained_tensors(folder / "whole")


@pytest.fixture
def here(stopped):
    """The run, in the place to which it points, and what must come of it; all is as it was after each test."""
    folder, expected = stopped
    kept = shutil.copytree(folder, folder.with_name("kept"))
    yield folder, expected
    shutil.rmtree(folder)
    kept.rename(folder)


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def reorder(path):
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[::-1]))


def another_base(folder):
    """As if somebody had trained it on in its place: same names and shapes."""
    shutil.rmtree(folder / "model")
    save_model(folder / "model", seed=1)


def one_weight(folder):
    model = build("bert", dropout=0.1)
    model.get_input_embeddings().weight.data.mul_(20)
    model.base_model.encoder.layer[0].output.dense.weight.data[3, 3] += 1e-6
    model.base_model.save_pretrained(folder / "model")


def other_tokens(folder):
    told = json.loads((folder / "model" / "tokenizer.json").read_text())
    words = told["model"]["vocab"]
    words["refund"], words["parcel"] = words["parcel"], words["refund"]
    (folder / "model" / "tokenizer.json").write_text(json.dumps(told))


def another_vocabulary(folder):
    """Of words that no text has, so that its tokens stay."""
    told = json.loads((folder / "model" / "tokenizer.json").read_text())
    words = told["model"]["vocab"]
    words["anna"], words["bob"] = words["bob"], words["anna"]
    (folder / "model" / "tokenizer.json").write_text(json.dumps(told))


def another_pooling(folder):
    (folder / "model" / "1_Pooling").mkdir()
    (folder / "model" / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": "max"}))


REFUSED = {
    "ids of words that no text has": (another_vocabulary, "got one with another tokenizer.json"),
    "the tokenizer's limit": (lambda folder: edit(folder / "model" / "tokenizer_config.json", model_max_length=9), "another tokenizer_config.json"),
    "a pooling": (another_pooling, "got one with another 1_Pooling/config.json"),
    "another base": (another_base, "model must be the one that the run was begun with, got one with other weights"),
    "one weight of the base": (one_weight, "model must be the one that the run was begun with, got one with other weights"),
    "the base's config": (lambda folder: edit(folder / "model" / "config.json", hidden_dropout_prob=0.2), "another config.json"),
    "another tokenizer": (other_tokens, "got one with another tokenizer.json"),
    "training data in another order": (lambda folder: reorder(folder / "train.jsonl"), "the data must be as it was"),
    "validation data in another order": (lambda folder: reorder(folder / "validation.jsonl"), "the data must be as it was"),
    "test data in another order": (lambda folder: reorder(folder / "test.jsonl"), "the data must be as it was"),
    "another selection": (lambda folder: another_selection(folder), "selection.safetensors beside it is not the one"),
    "an edited record": (lambda folder: edit_option(folder, epochs=2), "run.json beside it is not the one"),
}  # fmt: skip


def another_selection(folder):
    run = replace(
        TrainConfig(**json.loads((folder / "run" / "run.json").read_text())["config"]), seed=7, output=str(folder / "x")
    )
    stop(run, 2)
    shutil.copy(folder / "x" / "selection.safetensors", folder / "run")


def edit_option(folder, **options):
    told = json.loads((folder / "run" / "run.json").read_text())
    edit(folder / "run" / "run.json", config=told["config"] | options)


@pytest.mark.parametrize("change", REFUSED)
def test_a_change_is_refused_in_one_line(here, change):
    folder, expected = here
    made, words = REFUSED[change]
    made(folder)
    end, lines = going_on(folder / "run", expected)
    assert end == "refused" and words in lines[-1]
    assert {path.name for path in (folder / "run" / "checkpoints").iterdir()} == {"checkpoint-6", "checkpoint-8"}


@pytest.mark.parametrize(
    "options",
    [
        {"density": TrainConfig().selecting.density},  # the run has 0.25
        {"epochs": TrainConfig().training.epochs},
        {"seed": 7},
        {"learning_rate": None},
        {"training": Training(epochs=3, batch_size=16)},
        {"training": Training(epochs=TrainConfig().training.epochs)},
    ],
    ids=str,
)
def test_another_option_is_refused_even_one_equal_to_a_default(here, options):
    folder, expected = here
    end, lines = going_on(folder / "run", expected, **options)
    assert end == "refused" and "as in the run to resume" in lines[0], lines


def test_the_command_line_knows_which_options_were_given(here):
    folder, _ = here
    result = command("train", "--resume", "--output", folder / "run", "--epochs", TrainConfig().training.epochs)
    assert result.exit_code == 2 and "epochs must be 3" in result.stderr.replace("3.0", "3"), result.stderr


def test_the_same_options_again_are_none_of_it(here):
    """As they were given, and as what they stand for was recorded."""
    folder, expected = here
    same = {"density": 0.25, "epochs": 3, "warmup": TrainConfig().training.warmup, "task": "auto", "weight_decay": 0.0}
    assert going_on(folder / "run", expected, **same)[0] == "silent"


def test_another_version_is_said(here, monkeypatch):
    folder, expected = here
    monkeypatch.setattr(circumstances, "__version__", "99")
    end, lines = going_on(folder / "run", expected)
    (line,) = (line for line in lines if line.startswith("resuming with clm_kernels 99 for "))
    assert end == "said" and line.endswith(": results may differ in their last bits")


@pytest.mark.parametrize(("place", "value", "line"), [
    ((registry, "_wanted"), "reference", "resuming with backend reference for auto"),
    ((torch.backends.cpu, "get_cpu_capability"), lambda: "DEFAULT", "resuming with cpu DEFAULT for "),
], ids=["backend", "capability"])  # fmt: skip
def test_another_way_to_compute_is_said(here, monkeypatch, place, value, line):
    folder, expected = here
    monkeypatch.setattr(*place, value)
    end, lines = going_on(folder / "run", expected)
    assert end.startswith("said") and any(
        one.startswith(line) and one.endswith("may differ in their last bits") for one in lines
    ), lines


def test_a_checkpoint_of_before_tells_of_fewer(here):
    """What an older version has not recorded is not compared."""
    folder, expected = here
    for checkpoint in (folder / "run" / "checkpoints").iterdir():
        told = read_manifest(checkpoint)
        told["run"]["model"].pop("files")
        for name in ("backend", "cpu"):
            told["run"]["versions"].pop(name)
        seal(checkpoint, beside(folder / "run"), step=told["step"], best=told["best"], run=told["run"])
    another_vocabulary(folder)
    assert going_on(folder / "run", expected)[0] == "silent"


@pytest.mark.parametrize("change", ["edited", "broken", "gone"])
def test_a_run_file_that_is_another_is_written_anew(here, change):
    folder, expected = here
    path, whole = folder / "run" / "run.yaml", load_run_file(folder / "run" / "run.yaml")
    text = path.read_text().replace("learning_rate: 0.01", "learning_rate: 0.5")
    path.unlink() if change == "gone" else path.write_text(text if change == "edited" else "training: [")
    end, lines = going_on(folder / "run", expected)
    assert end == "silent" and [line for line in lines if "run.yaml" in line] == [
        "run.yaml is not what the run was begun with, and is written anew, with absolute paths"
    ]
    assert load_run_file(path).options == whole.options


def test_a_run_file_that_is_as_it_was_is_left(here):
    folder, expected = here
    before = (folder / "run" / "run.yaml").read_bytes()
    assert not any("run.yaml" in line for line in going_on(folder / "run", expected)[1])
    assert (folder / "run" / "run.yaml").read_bytes() == before


def test_another_number_of_processes_is_refused(here, monkeypatch):
    folder, expected = here
    monkeypatch.setattr(circumstances, "processes", lambda: 2)
    end, lines = going_on(folder / "run", expected)
    assert (end, lines[0].startswith("train: the number of processes must be 1")) == ("refused", True)


def test_rows_have_one_fingerprint_however_they_lie_in_memory():
    from datasets import Dataset, concatenate_datasets

    columns = {"input_ids": [[1, 2], [3], [], [4, 5]], "labels": [0, 1, 0, 1]}
    whole = Dataset.from_dict(columns)
    found = circumstances.rows_checksum(whole)
    parts = concatenate_datasets([whole.select([0, 1]), whole.select([2, 3])])
    assert circumstances.rows_checksum(parts) == circumstances.rows_checksum(whole.select([0, 1, 2, 3])) == found
    others = [
        whole.select([1, 0, 2, 3]),
        Dataset.from_dict(columns | {"labels": [0, 1, 1, 0]}),
        Dataset.from_dict(columns | {"input_ids": [[1], [2, 3], [], [4, 5]]}),
        whole.rename_column("labels", "label"),
    ]
    assert len({found, *map(circumstances.rows_checksum, others)}) == 5


def test_a_run_folder_has_what_was_asked_for(stopped):
    told = json.loads(Path(stopped[0] / "run" / "run.json").read_text())
    assert told["asked"]["task"] == "auto" and told["config"]["task"] == "sequence"
