"""What a run says of its choice: the sensitivity chosen and left, and its picture."""

import json
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file
from test_cli import run
from tiny_runs import silent

from clm_kernels import Selection
from clm_kernels.choose.overview import Line, Overview
from clm_kernels.finetune import TrainConfig, train
from clm_kernels.finetune.outputs import PICTURE, SCORES
from clm_kernels.finetune.recipe import choose_selection
from clm_kernels.finetune.trainer import RunTrainer

FILES = ("model", "train", "validation")


def test_the_report_says_what_of_the_sensitivity_was_chosen_and_left(finished):
    config, report = finished
    output = Path(config.output)
    selection, scores = Selection.load(output / "selection.safetensors"), load_file(output / SCORES)
    everything = sum(score.double().sum().item() for score in scores.values())
    assert everything > 0 and {line["name"] for line in report.selection} == set(scores) >= set(selection)
    for line in report.selection:
        entries, score = selection.get(line["name"]), scores[line["name"]].double()
        assert line["sensitivity"] == pytest.approx(score.sum().item() / everything)
        held = 0 if entries is None else score[entries.index.long()].sum().item()
        assert line["chosen"] == pytest.approx(held / everything)
    assert json.loads((output / "report.json").read_text())["selection"] == report.selection
    assert 0 < sum(line["chosen"] for line in report.selection) < sum(line["sensitivity"] for line in report.selection)
    assert choose_selection(config)[1] == Overview(Line(**line) for line in report.selection)


def test_weights_of_which_nothing_was_chosen_have_a_line(base, tmp_path):
    report = train(replace(base, output=str(tmp_path / "o"), per="model", density=0.005, epochs=1), silent)
    left = [line for line in report.selection if line["selected_entries"] == 0]
    assert left and all(line["kind"] == "" and line["chosen"] == 0 < line["sensitivity"] for line in left)


def test_the_picture_is_drawn_where_matplotlib_is(base, finished, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    assert (Path(finished[0].output) / PICTURE).read_bytes().startswith(b"\x89PNG")
    lines = []
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    config = replace(base, output=str(tmp_path / "o"), epochs=1)
    train(config, lines.append)
    assert not (tmp_path / "o" / PICTURE).exists() and (tmp_path / "o" / SCORES).exists()
    assert any("selection.png left out" in line and "pip install matplotlib" in line for line in lines)
    (tmp_path / "o" / PICTURE).touch()
    train(replace(config, overwrite=True, select="random"), silent)
    assert not (tmp_path / "o" / PICTURE).exists() and not (tmp_path / "o" / SCORES).exists()


def test_chance_and_selections_from_files_are_no_sensitivity(base, finished, tmp_path):
    for changes in ({"select": "random"}, {"select": "magnitude"}, {"selection": f"{finished[0].output}/selection.safetensors"}):
        report = train(replace(base, output=str(tmp_path / "o"), epochs=1, overwrite=True, **changes), silent)
        assert report.selection and {(line["sensitivity"], line["chosen"]) for line in report.selection} == {(None, None)}
        assert not (tmp_path / "o" / SCORES).exists() and not (tmp_path / "o" / PICTURE).exists()


def test_a_resumed_run_reports_the_same(finished, tmp_path, monkeypatch):
    config, report = finished
    original, steps = RunTrainer.training_step, []

    def training_step(self, *args, **kwargs):
        steps.append(1)
        if len(steps) == 8:
            signal.raise_signal(signal.SIGINT)
        return original(self, *args, **kwargs)

    with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
        context.setattr(RunTrainer, "training_step", training_step)
        train(replace(config, output=str(tmp_path / "o")), silent)
    assert train(TrainConfig(output=str(tmp_path / "o"), resume=True), silent).selection == report.selection


def test_the_command_line_says_what_the_selected_entries_hold(base, tmp_path):
    options = [part for name in FILES for part in (f"--{name}", getattr(base, name))]
    options += ["--batch-size", 8, "--density", "0.1", "--sensitivity-examples", 24]
    result = run("train", *options, "--output", tmp_path / "o", "--epochs", 1)
    assert result.exit_code == 0, result.stderr
    lines = Overview(Line(**line) for line in json.loads((tmp_path / "o" / "report.json").read_text())["selection"])
    assert " of 14,336 entries hold " in lines.hold
    for output in (result.stdout, run("select", *options).stdout):
        said = " ".join(output.split())
        assert lines.hold in said and "selected:" in said
        assert all(heading in said for heading in ("layer", "query", "chosen", "left"))
    assert "hold" not in run("select", *options, "--select", "random").stdout
