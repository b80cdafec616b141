"""`--cost`: the share that spends it, runs that keep to it, resumed too, and what cannot be kept."""

import json
import math
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch.distributed as dist
from interruption import press_ctrl_c
from PIL import Image
from rich.console import Console
from tiny_runs import assert_same, base, silent, trained_tensors  # noqa: F401

from clm_kernels.cli import show
from clm_kernels.finetune import TrainConfig, train
from clm_kernels.finetune.artifacts import COST_PICTURE
from clm_kernels.finetune.pacing import BEGIN, Pace, Price, check_cost
from clm_kernels.finetune.teaching import LEAST

PRICE = Price(fixed=0.34, tokens=0.37)


@pytest.mark.parametrize("epochs", [0.5, 1, 2.5, 3, 10])
@pytest.mark.parametrize("part", [0.3, 0.4, 0.6])
def test_the_share_spends_the_budget(epochs, part):
    whole = min(1, epochs)
    share = PRICE.share(part * epochs, epochs)
    assert PRICE.mean(share, epochs) == pytest.approx(part) or (share < 0 and PRICE.mean(0.0, epochs) > part)
    spent = whole * (0.34 + 0.37 * share) + (epochs - whole) * share * (0.34 + 0.37 * share)
    assert PRICE.mean(share, epochs) * epochs == pytest.approx(spent)


def test_once_the_first_epoch_is_over_all_are_thinned():
    share = PRICE.share(0.5, 3.0, 1.0)
    assert 2 * share * (0.34 + 0.37 * share) == pytest.approx(0.5)


def test_what_cannot_be_reached_is_refused_with_what_can():
    least, most = PRICE.mean(LEAST, 3), PRICE.mean(1.0, 3)
    assert (round(least, 3), round(most, 3)) == (0.151, 0.71)
    for part in (least, 0.3, most - 1e-6):
        check_cost(part, PRICE, 3)
    for part in (least - 1e-6, most, 1.0):
        with pytest.raises(
            ValueError, match=r"^train: cost must be at least 0\.151, .* 3 epochs .* and below 0\.710, what all of them"
        ):
            check_cost(part, PRICE, 3)


# Runs

OPTIONS = {"kind": "groups", "select": "auto", "per": "auto", "density": 0.125, "batch_size": 4, "epochs": 8}


@pytest.fixture(scope="module")
def paced(base, tmp_path_factory):  # noqa: F811
    """A run held to half of what all of it takes: its config, report, and what it said."""
    said = []
    config = replace(base, **OPTIONS, cost=0.3, output=str(tmp_path_factory.mktemp("run") / "out"))
    return config, train(config, said.append), said


def test_a_run_keeps_to_its_cost(paced):
    _, report, _ = paced
    assert sum(report.planned) / 8 == pytest.approx(0.3)
    assert sum(report.spent) / 8 == pytest.approx(0.3, rel=0.03)
    assert max(report.spent[1:]) < 0.35 < 0.5 < report.spent[0]
    assert min(line["tokens"] for line in report.active) < 0.6 and max(line["examples"] for line in report.examples[1:]) < 0.6


def test_the_report_and_its_picture_say_so(paced):
    config, report, _ = paced
    stored = json.loads((Path(config.run.output) / "report.json").read_text())
    assert (stored["planned"], stored["spent"], stored["config"]["cost"]) == (report.planned, report.spent, 0.3)
    assert Image.open(Path(config.run.output) / COST_PICTURE).size == (1200, 408)
    console = Console(width=120, record=True, file=StringIO())
    console.print(show.summary(report))
    assert f"{sum(report.spent) / 8:.1%} of full fine-tuning's FLOPs (30.0% was asked for)" in console.export_text()


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_the_noise_follows_the_share(paced, share):
    """Of a pace whose layers draw less the more noise there is, the noise that gives the share."""
    cost = paced[1].cost
    active = {name: SimpleNamespace(part=0.0) for name in cost["layers"]}
    came = dict.fromkeys(active, 0)
    kept = dict.fromkeys(active, 0.0)

    def counts(reset):
        for name, layer in active.items():
            came[name] += 100
            kept[name] += 100 * (0.2 - 0.15 * math.log(layer.part))
        return {name: (kept[name], came[name]) for name in active}

    pace = Pace(SimpleNamespace(counts=counts, values=active.values, noise=0.1), cost, 0.3, 4, [1] * 4)
    state = SimpleNamespace(log_history=[], epoch=0.0, max_steps=400)
    pace.on_train_begin(None, state, None)
    pace.on_epoch_begin(None, state, None)
    pace.now["share"] = share
    for _ in range(60):
        pace.on_step_end(SimpleNamespace(device="cpu"), state, None)
    (noise,) = {layer.part for layer in active.values()}
    assert 0.2 - 0.15 * math.log(noise) == pytest.approx(share, abs=1e-3)


@pytest.mark.parametrize("step", [5, 24, 41])
def test_resumed_runs_leave_the_same_weights_and_cost_the_same(paced, tmp_path, monkeypatch, step):
    """Twelve steps an epoch: in the first, at the end of the second, in the fourth."""
    config, report, _ = paced
    with monkeypatch.context() as context:
        press_ctrl_c(context, step)
        with pytest.raises(KeyboardInterrupt):
            train(config.replace(output=str(tmp_path / "b")), silent)
    resumed = train(TrainConfig(output=str(tmp_path / "b"), resume=True), silent)
    assert (resumed.spent, resumed.planned, resumed.examples) == (report.spent, report.planned, report.examples)
    assert_same(trained_tensors(config.run.output), trained_tensors(tmp_path / "b"))


def test_another_run_in_its_place_leaves_no_picture_behind(paced, tmp_path):
    config = paced[0].replace(epochs=2, cost=0.4, output=str(tmp_path / "o"))
    train(config, silent)
    assert (tmp_path / "o" / COST_PICTURE).exists()
    train(config.replace(cost=None, overwrite=True), silent)
    assert not (tmp_path / "o" / COST_PICTURE).exists()


def test_a_run_that_is_stopped_early_ends_well(paced, tmp_path):
    report = train(paced[0].replace(epochs=4, cost=0.35, patience=1, learning_rate=1e-9, output=str(tmp_path / "o")), silent)
    assert (len(report.spent), len(report.planned)) == (2, 4) and (tmp_path / "o" / COST_PICTURE).exists()
    assert (tmp_path / "o" / "report.html").exists()


def test_accumulated_batches_are_counted(paced, tmp_path):
    report = train(paced[0].replace(gradient_accumulation=2, output=str(tmp_path / "o")), silent)
    assert sum(report.spent) / 8 == pytest.approx(0.3, rel=0.06)


def test_tags_too(paced, tmp_path):
    rows = [json.loads(line) for line in Path(paced[0].data.train).read_text().splitlines()]
    tagged = [{"tokens": row["text"].split(), "tags": ["O"] + ["B-X"] * (len(row["text"].split()) - 1)} for row in rows]
    path = tmp_path / "tags.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in tagged))
    config = paced[0].replace(train=str(path), validation="", test="", output=str(tmp_path / "o"), best_by="auto")
    assert sum(train(config, silent).spent) / 8 == pytest.approx(0.3, rel=0.05)


def test_of_two_parts_of_the_whole_the_smaller_costs_less(paced):
    cost = paced[1].cost
    shares = [Pace({}, cost, part, 8, [1] * 48).planned for part in (0.2, 0.3, 0.4)]
    assert [sum(planned) / 8 for planned in shares] == [pytest.approx(part) for part in (0.2, 0.3, 0.4)]


@pytest.mark.parametrize(("options", "message"), [
    ({"cost": 0.0}, r"cost must be in \(0, 1\], got 0.0"),
    ({"cost": 1.1}, r"cost must be in \(0, 1\], got 1.1"),
    ({"cost": 0.3, "energy": "0.9"}, "energy must be left out with cost, which decides it, got '0.9'"),
    ({"cost": 0.3, "noise": 0.1}, "noise must be left out with cost, which decides it, got 0.1"),
    ({"cost": 0.3, "skip": 0.1}, "skip must be left out with cost, which decides it, got 0.1"),
    ({"cost": 0.3, "replay": True}, "replay must be left out with cost, which decides it, got True"),
    ({"cost": 0.3, "method": "full", "density": None, "kind": "auto"}, "cost must be left out with the method full, got 0.3"),
    ({"cost": 0.3, "method": "lora", "density": None, "kind": "auto"}, "cost must be left out with the method lora, got 0.3"),
    ({"cost": 0.01}, r"cost must be at least 0\.\d+, what 8 epochs take at 10% of the tokens and"),
    ({"cost": 0.3, "epochs": 1}, r"cost must be at least 0\.\d+, what 1 epochs take at 10% of the tokens and"),
    ({"cost": 0.9}, r"and below 0\.\d+, what all of them take, got 0.9"),
])  # fmt: skip
def test_refusals(base, tmp_path, options, message):  # noqa: F811
    with pytest.raises(ValueError, match=message):
        train(base.replace(output=str(tmp_path / "o"), **OPTIONS | options), silent)
    assert not (tmp_path / "o").exists()


def test_a_model_whose_cost_cannot_be_told_is_refused(base, tmp_path, monkeypatch):  # noqa: F811
    def uncountable(*_):
        raise ValueError("cost: the layers' weights must have two dims")

    monkeypatch.setattr("clm_kernels.finetune.methods.patched.CostModel", uncountable)
    with pytest.raises(ValueError, match="train: cost must be left out for this model, got cost: the layers' weights"):
        train(base.replace(output=str(tmp_path / "o"), **OPTIONS, cost=0.3), silent)


def test_all_processes_keep_one_pace(paced, monkeypatch):
    """One whose own tokens are all active, beside one where half as many came and none was kept."""

    def all_reduce(both):
        both[0] *= 1.5

    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    cost = paced[1].cost
    active = {name: SimpleNamespace(part=0.0) for name in cost["layers"]}
    counts = dict.fromkeys(active, (100, 100))
    pace = Pace(SimpleNamespace(counts=lambda reset: counts, values=active.values, noise=0.1), cost, 0.3, 4, [1] * 4)
    pace.on_step_end(SimpleNamespace(device="cpu"), SimpleNamespace(max_steps=40), None)
    assert pace.now["missed"] == pytest.approx(BEGIN * math.exp(2 / 3 - 1))
    assert pace.now["left"] == pytest.approx(1.2 - 0.1 * pace.price.at(2 / 3))
