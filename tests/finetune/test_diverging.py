"""A run whose numbers are not finite any more ends at once, and leaves nothing that looks like a result."""

import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from command_line import run
from tiny_runs import base, silent  # noqa: F401

from clm_kernels.finetune import train
from clm_kernels.finetune.diverging import Diverged, check_loss, check_weights
from clm_kernels.finetune.trainer import RunTrainer

STATE = SimpleNamespace(global_step=2, max_steps=9, best_global_step=None)


def given(**options):
    return SimpleNamespace(**{"learning_rate": 0.5, "fp16": False, "bf16": False} | options)


@pytest.fixture
def quick(base, tmp_path):  # noqa: F811
    return replace(base, select="random", output=str(tmp_path / "o"))


def poisoned_after(monkeypatch, step, number=0):
    """What is trained holds NaN after this step's backward, and perhaps a signal has come."""
    original = RunTrainer.training_step

    def training_step(self, *args, **kwargs):
        loss = original(self, *args, **kwargs)
        if self.state.global_step + 1 == step:
            with torch.no_grad():
                next(p for p in self.model.parameters() if p.requires_grad).view(-1)[0] = float("nan")
            if number:
                signal.raise_signal(number)
        return loss

    monkeypatch.setattr(RunTrainer, "training_step", training_step)


@pytest.mark.parametrize("further", [(), ("--gradient-accumulation", "2"), ("--dtype", "bfloat16", "--precision", "bf16")])
def test_it_ends_with_a_line_and_leaves_nothing(base, tmp_path, further):  # noqa: F811
    files = ["--model", base.data.model, "--train", base.data.train, "--validation", base.data.validation]
    quick = ["--pooling", "mean", "--select", "random", "--density", 0.1, "--batch-size", 8, "--epochs", 2]
    ended = run("train", *files, *quick, "--learning-rate", 1e30, "--warmup", 0, *further, "--output", tmp_path / "o")
    assert ended.exit_code == 1
    assert "learning_rate must be low enough that losses and weights stay finite, got 1e+30 and a training loss" in ended.stderr
    assert f" in step 2 of {6 if '2' in further else 12} (give a lower one" in ended.stderr
    assert not (tmp_path / "o").exists()


def test_checkpoints_of_before_stay_and_it_says_that_they_do_not_help(quick, monkeypatch):
    poisoned_after(monkeypatch, 8)  # of six an epoch
    with pytest.raises(Diverged, match=r"training loss of nan in step 9 of 18 .*; resume would come to this step again"):
        train(quick, silent)
    output = Path(quick.run.output)
    assert [path.name for path in (output / "checkpoints").iterdir()] == ["checkpoint-6"]
    assert not {"report.json", "delta.safetensors"} & {path.name for path in output.iterdir()}
    train(replace(quick, overwrite=True, epochs=1), silent)


def test_a_last_step_is_found_by_its_validation(quick, monkeypatch):
    poisoned_after(monkeypatch, 6)
    with pytest.raises(Diverged, match="a validation loss of nan in step 6 of 6"):
        train(replace(quick, epochs=1), silent)
    assert not Path(quick.run.output).exists()


def test_no_checkpoint_is_made_of_such_weights(quick, monkeypatch):
    poisoned_after(monkeypatch, 4, signal.SIGTERM)
    with pytest.raises(Diverged, match="weights that are not finite after step 4 of 18"):
        train(quick, silent)
    assert not Path(quick.run.output).exists()


@pytest.mark.parametrize("loss", [torch.tensor(float("nan")), torch.tensor(float("-inf")), float("inf")])
@pytest.mark.parametrize(
    ("options", "advice"),
    [({}, "(give a lower one)"), ({"fp16": True}, "or precision bf16 or float32)"), ({"bf16": True}, "or precision float32)")],
)
def test_what_helps_goes_by_the_precision(loss, options, advice):
    check_loss(torch.tensor(3e38), "training", 3, given(**options), STATE)
    with pytest.raises(Diverged, match="in step 3 of 9") as raised:
        check_loss(loss, "training", 3, given(**options), STATE)
    assert str(raised.value).endswith(advice)


def test_all_weights_are_looked_at():
    check_weights([torch.ones(2, dtype=torch.bfloat16), torch.zeros(0)], given(), STATE)
    check_weights([], given(), STATE)
    with pytest.raises(Diverged, match="after step 2 of 9"):
        check_weights([torch.ones(2), torch.tensor([[1.0, float("inf")]])], given(), STATE)


def test_a_trial_that_diverges_does_not_end_a_search(quick, monkeypatch):
    pytest.importorskip("optuna")
    from clm_kernels.finetune.many import search

    rates = iter([1e30, 1e-2])
    monkeypatch.setattr(search, "proposed", lambda *given: {"learning_rate": next(rates)})
    said = []
    searching = replace(quick, search=2, epochs=1, warmup=0.0, learning_rate=None)
    report = train(replace(searching, given=frozenset({"epochs"})), said.append)
    first, second = report.search["trials"]
    assert first["validation"] == 0 < second["validation"] and report.search["best"] == 2
    assert any("losses and weights stay finite" in line for line in said)
