"""Checkpoints that are damaged, half-written or of another run: none is resumed from without a word."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from damaging import DAMAGES, delete, flip, going_on
from forked import forked, kill_myself
from interruption import stop
from safetensors.torch import load_file
from tiny_runs import assert_same, silent, trained_tensors

from clm_kernels import files
from clm_kernels.finetune import TrainConfig, fitting, manifest, outputs, train
from clm_kernels.finetune.trainer import RunTrainer


@pytest.fixture(scope="module")
def quick(base):
    """Of six steps an epoch; the best checkpoint is the second."""
    return replace(base, select="random")


@pytest.fixture(scope="module")
def expected(quick, tmp_path_factory):
    """What the run without a break leaves."""
    output = tmp_path_factory.mktemp("whole") / "o"
    train(replace(quick, output=str(output)), silent)
    return trained_tensors(output)


@pytest.fixture(scope="module")
def stopped(quick, tmp_path_factory):
    """A run that was stopped after step 14 of 18, and one with another seed: checkpoints 12, the best, and 14."""
    folder = tmp_path_factory.mktemp("stopped")
    for name, seed in (("one", 42), ("other", 43)):
        stop(replace(quick, output=str(folder / name), seed=seed), 14)
    assert {path.name for path in (folder / "one" / "checkpoints").iterdir()} == {"checkpoint-12", "checkpoint-14"}
    return folder


@pytest.fixture
def run(stopped, tmp_path):
    """A copy of the first to damage; that it lies elsewhere now is no damage."""
    return shutil.copytree(stopped / "one", tmp_path / "run")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("damage", DAMAGES)
def test_no_damage_is_silent(run, stopped, expected, tmp_path, damage):
    """Each file of the newest checkpoint, and what stands beside the checkpoints."""
    newest = Path("checkpoints", "checkpoint-14")
    parts = [newest / name for name in names(run / newest)] + [Path("run.json"), Path("selection.safetensors")]
    ends = {}
    for part in parts:
        output = shutil.copytree(run, tmp_path / "damaged")
        before = (output / part).read_bytes()
        damage(output / part, stopped / "other" / part)
        if damage is delete or (output / part).read_bytes() != before:
            ends[str(part)] = going_on(output, expected)[0]
        shutil.rmtree(output)
    assert len(ends) >= 8 and {end for part, end in ends.items() if "checkpoint-" in part} == {"said"}, ends
    assert {end for part, end in ends.items() if "checkpoint-" not in part} == {"refused"}, ends


@pytest.mark.parametrize("damage", [delete, flip])
def test_without_its_best_checkpoint_none_is_usable(run, stopped, expected, damage):
    """The weights that the report would call the best are lost; those of the last step are others."""
    damage(run / "checkpoints" / "checkpoint-12" / "model.safetensors", None)
    before = names(run / "checkpoints")
    end, lines = going_on(run, expected)
    assert end == "refused" and "got" in lines[0] and "checkpoint-12, the best until then, model.safetensors is" in lines[0]
    assert names(run / "checkpoints") == before  # nothing is taken away by a run that does not go on


def test_a_best_checkpoint_that_goes_while_the_run_goes_on(run, expected, monkeypatch):
    finish, made = RunTrainer._load_best_model, []

    def load(self):
        made.append(Path(self.state.best_model_checkpoint))
        shutil.rmtree(made[0])
        finish(self)

    monkeypatch.setattr(RunTrainer, "_load_best_model", load)
    end, lines = going_on(run, expected)
    assert made and end == "refused" and "the best checkpoint, must be as it was saved" in lines[0]
    assert not (run / "report.json").exists()


def test_a_folder_that_was_moved_keeps_its_best(quick, tmp_path, monkeypatch):
    """The last epoch does not better the score here, and is over: what is left is the second's weights, under its name."""
    score = RunTrainer._determine_best_metric

    def until_the_last(self, metrics, trial):
        return self.state.global_step < 18 and score(self, metrics, trial)

    monkeypatch.setattr(RunTrainer, "_determine_best_metric", until_the_last)
    stop(replace(quick, output=str(tmp_path / "here")), 18)
    moved = (tmp_path / "here").rename(tmp_path / "there")
    best, last = (load_file(moved / "checkpoints" / f"checkpoint-{step}" / "model.safetensors") for step in (12, 18))
    report = train(TrainConfig(output=str(moved), resume=True), silent)
    assert report.best["step"] == 12 and len(report.history) == 3
    head = trained_tensors(moved)["classifier.weight"]
    assert torch.equal(head, best["classifier.weight"]) and not torch.equal(head, last["classifier.weight"])


def test_a_checkpoint_of_another_run_is_passed_over(run, stopped, expected):
    shutil.rmtree(run / "checkpoints" / "checkpoint-14")
    shutil.copytree(stopped / "other" / "checkpoints" / "checkpoint-14", run / "checkpoints" / "checkpoint-14")
    end, lines = going_on(run, expected)
    assert end == "said" and "checkpoint-14 is passed over: run.json beside it is not the one" in lines[0]


def test_a_checkpoint_under_another_step_is_passed_over(run, expected):
    checkpoints = run / "checkpoints"
    shutil.copytree(checkpoints / "checkpoint-12", checkpoints / "checkpoint-16")
    end, lines = going_on(run, expected)
    assert end == "said" and lines[0] == "checkpoint-16 is passed over: it was made after step 12"


def test_a_file_more_is_damage_too(run, expected):
    """transformers would read some, as pytorch_model.bin, in place of what was saved."""
    (run / "checkpoints" / "checkpoint-14" / "adapter_model.bin").write_bytes(b"")
    end, lines = going_on(run, expected)
    assert end == "said" and "adapter_model.bin is none of its files" in lines[0]


def test_an_edited_manifest_is_no_manifest(run, expected):
    path = run / "checkpoints" / "checkpoint-14" / "manifest.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps(told | {"best": None}))
    assert going_on(run, expected)[0] == "said"


MOMENTS = {  # a place in the save at step 12 -> the checkpoint that is left
    "before the weights": (RunTrainer, "save_model", "before", 6),
    "after the weights": (RunTrainer, "save_model", "after", 6),
    "before the random state": (RunTrainer, "_save_rng_state", "before", 6),
    "before the manifest": (fitting.Sealing, "on_save", "before", 6),
    "with half a manifest": (files.os, "replace", "before", 6),
    "after the manifest": (fitting.Sealing, "on_save", "after", 12),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_kill_9_in_a_save(quick, expected, tmp_path, moment):
    """Nothing tidies up: what stands there says by itself what it is worth."""
    owner, name, when, left = MOMENTS[moment]
    output = tmp_path / "o"

    def killed():
        original, save = getattr(owner, name), RunTrainer._save_checkpoint
        saving = []

        def watched(*args, **kwargs):
            if when == "before" and saving[1:]:
                kill_myself()
            result = original(*args, **kwargs)
            if when == "after" and saving[1:]:
                kill_myself()
            return result

        def counted(self, *args, **kwargs):
            saving.append(self.state.global_step)
            return save(self, *args, **kwargs)

        setattr(owner, name, watched)
        RunTrainer._save_checkpoint = counted
        train(replace(quick, output=str(output)), silent)

    assert forked(killed) == -9
    lines = []
    train(TrainConfig(output=str(output), resume=True), lines.append)
    assert any(line.startswith(f"resuming after checkpoint-{left},") for line in lines)
    assert_same(trained_tensors(output), expected)
    assert not list(output.glob(".*")) and not (output / "checkpoints").exists()


class Evil:
    def __reduce__(self):
        return (open, ("/nowhere/at/all", "w"))


@pytest.mark.parametrize("name", ["rng_state.pth", "optimizer.pt", "scheduler.pt"])
def test_a_pickle_under_a_right_seal_is_refused(run, name):
    """These are torch's own files, which it reads as tensors and numbers and no more."""
    newest = run / "checkpoints" / "checkpoint-14"
    torch.save(Evil(), newest / name)
    told = manifest.read_manifest(newest)
    manifest.seal(newest, outputs.beside(run), step=told["step"], best=told["best"], run=told["run"])
    with pytest.raises(
        ValueError, match=r"^train: '.*checkpoint-14' must be of tensors and numbers, got a file with other objects"
    ):
        train(TrainConfig(output=str(run), resume=True), silent)
