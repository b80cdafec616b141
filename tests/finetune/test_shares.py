"""What a run says of the tokens that its backward leaves out, epoch by epoch, and after a break."""

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from interruption import press_ctrl_c
from rich.console import Console
from tiny_runs import assert_same, base, silent, trained_tensors  # noqa: F401
from transformers import AutoModelForSequenceClassification

from clm_kernels import Selection
from clm_kernels.cli import show
from clm_kernels.finetune import TrainConfig, train
from clm_kernels.finetune.methods import method_of
from clm_kernels.finetune.shares import costs
from clm_kernels.finetune.tasks import TASKS
from clm_kernels.selecting.budget.cost import CostModel

ENERGY = {"energy": "attention=0.99,feed_forward=0.8"}


def printed(table):
    console = Console(width=120, record=True, file=StringIO())
    console.print(table)
    return console.export_text()


@pytest.fixture(scope="module")
def ended(base, tmp_path_factory):  # noqa: F811
    """A finished run with active tokens: its config, report, and what it said."""
    lines = []
    config = replace(base, **ENERGY, output=str(tmp_path_factory.mktemp("run") / "out"))
    return config, train(config, lines.append), lines


def test_each_epoch_has_its_shares_and_cost(ended):
    config, report, lines = ended
    assert [line["epoch"] for line in report.active] == [1, 2, 3]
    model = AutoModelForSequenceClassification.from_pretrained(config.data.model, num_labels=3)
    selection = Selection.load(Path(config.run.output) / "selection.safetensors")
    cost = CostModel(model, report.cost["batch"], report.cost["length"])
    every = cost.of(selection, biases=True, norms=True)
    assert report.cost["share"] == every.share
    for line in report.active:
        found = cost.of(selection, biases=True, norms=True, shares=line["layers"])
        assert line["flops"] == pytest.approx(found.share) and line["flops"] < every.share
        assert min(line["layers"].values()) < line["tokens"] < 1
        said = f"epoch {line['epoch']:g} of 3: backward at {line['tokens']:.0%} of the tokens, {line['flops']:.2f} of full"
        assert any(text.startswith(said) for text in lines)


def test_report_and_tables_hold_it(ended):
    config, report, _ = ended
    stored = json.loads((Path(config.run.output) / "report.json").read_text())
    assert stored["active"] == report.active and stored["cost"]["layers"] == report.cost["layers"]
    text = printed(show.active(report.active))
    assert "layer 0" in text and "layer 1" in text and f"{report.active[-1]['tokens']:.0%}" in text
    flops = sum(line["flops"] for line in report.active) / 3
    assert f"{flops:.1%} of full fine-tuning's FLOPs (mean of 3 epochs)" in printed(show.summary(report))
    many = printed(show.active([{**report.active[0], "epoch": float(i + 1)} for i in range(30)]))
    assert " 30" in many and " 29" not in many


def test_without_energy_there_is_nothing_to_say(base, tmp_path):  # noqa: F811
    lines = []
    report = train(replace(base, output=str(tmp_path / "o"), epochs=1), lines.append)
    assert report.active == [] and "layers" not in report.cost
    assert not any("of the tokens" in line for line in lines)
    assert "tokens," not in printed(show.summary(report))


@pytest.mark.parametrize("step", [8, 12, 18])
def test_a_run_that_goes_on_counts_on(ended, tmp_path, monkeypatch, step):
    """Six steps an epoch: in the middle of the second, at its end, and at the very end."""
    config, report, _ = ended
    with monkeypatch.context() as context:
        press_ctrl_c(context, step)
        with pytest.raises(KeyboardInterrupt):
            train(replace(config, output=str(tmp_path / "o")), silent)
    resumed = train(TrainConfig(output=str(tmp_path / "o"), resume=True), silent)
    assert resumed.active == report.active
    assert_same(trained_tensors(tmp_path / "o"), trained_tensors(config.run.output))


@pytest.fixture(scope="module")
def often(base, tmp_path_factory):  # noqa: F811
    """One that validates and saves every second step of six an epoch."""
    config = replace(base, **ENERGY, eval_steps=2, epochs=2, output=str(tmp_path_factory.mktemp("often") / "out"))
    return config, train(config, silent)


@pytest.mark.parametrize("step", [3, 4, 6])
def test_with_checkpoints_every_few_steps(often, tmp_path, monkeypatch, step):
    """At a step that saves, at one that does not, and at the end of an epoch, which is saved before the epoch has ended."""
    config, report = often
    with monkeypatch.context() as context:
        press_ctrl_c(context, step)
        with pytest.raises(KeyboardInterrupt):
            train(replace(config, output=str(tmp_path / "o")), silent)
    resumed = train(TrainConfig(output=str(tmp_path / "o"), resume=True), silent)
    assert [line["epoch"] for line in report.active] == [1, 2]
    assert resumed.active == report.active


def test_a_cost_that_is_not_known():
    assert costs({"a": 0.25, "b": 0.75}, {}) == {"tokens": 0.5, "flops": None}
    line = {"epoch": 1.0, "layers": {"layers.0.a": 0.25}, **costs({"a": 0.25}, {})}
    assert "25%" in printed(show.active([line])) and "full" not in printed(show.active([line]))


@pytest.mark.parametrize("method", ["full", "head"])
def test_methods_without_active_tokens_take_every_token_by_name(method):
    config = TrainConfig(method=method)
    resolved = method_of(config).resolved(config, TASKS["sequence"])
    assert resolved.training.energy == "1"
    method_of(resolved).check(resolved)  # as a run that is resumed does
    with pytest.raises(ValueError, match=f"^train: energy must be left out with the method {method}, got 'query=0.9'$"):
        method_of(config).check(config.replace(energy="query=0.9"))


@pytest.mark.parametrize("step", [8, 12])
def test_a_run_with_noise_is_resumed_bit_for_bit(base, tmp_path, monkeypatch, step):  # noqa: F811
    """The numbers by which tokens are drawn go on where they were."""
    config = base.replace(noise=0.2, skip=0.1)
    whole = train(config.replace(output=str(tmp_path / "a")), silent)
    with monkeypatch.context() as context:
        press_ctrl_c(context, step)
        with pytest.raises(KeyboardInterrupt):
            train(config.replace(output=str(tmp_path / "b")), silent)
    resumed = train(TrainConfig(output=str(tmp_path / "b"), resume=True), silent)
    assert resumed.active == whole.active and max(line["tokens"] for line in whole.active) < 1
    assert len(whole.spent) == 3 and max(whole.spent) < 1 and not whole.words
    assert_same(trained_tensors(tmp_path / "a"), trained_tensors(tmp_path / "b"))


@pytest.mark.parametrize(("options", "message"), [
    ({"noise": 1.0}, r"noise must be in \[0, 1\), got 1.0"),
    ({"noise": 0.1, "energy": "0.9"}, r"energy and noise must be given one without the other, got 0.9 and 0.1"),
    ({"noise": 0.1, "method": "full"}, r"noise must be left out with the method full, got 0.1"),
])  # fmt: skip
def test_noise_that_cannot_be(base, tmp_path, options, message):  # noqa: F811
    with pytest.raises(ValueError, match=message):
        train(base.replace(output=str(tmp_path / "o"), **options), silent)
