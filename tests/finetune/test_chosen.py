"""What a run says of its choice: the sensitivity chosen and left, its picture, and the backward's share of the FLOPs."""

import json
import signal
import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from command_line import run
from rich.console import Console
from safetensors.torch import load_file
from tiny_runs import silent
from tiny_task import sentences, texts, write_data
from transformers import AutoModelForSequenceClassification

from clm_kernels import Selection
from clm_kernels.cli import show
from clm_kernels.finetune import TrainConfig, train
from clm_kernels.finetune.artifacts import GROUPS, PICTURE, SCORES
from clm_kernels.finetune.beginning import choose_selection
from clm_kernels.finetune.methods import resolved
from clm_kernels.finetune.tasks import TASKS
from clm_kernels.finetune.trainer import RunTrainer
from clm_kernels.ops.grouped import groups_of
from clm_kernels.selecting.budget.cost import step_cost
from clm_kernels.selecting.overview import Line, Overview

FILES = ("model", "train", "validation")


def test_the_report_says_what_of_the_sensitivity_was_chosen_and_left(finished):
    config, report = finished
    output = Path(config.run.output)
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


def test_unless_told_texts_are_scored_where_words_tell_the_label_and_tags_everywhere(base, tmp_path):
    same = [("tag", sentences), ("constant", lambda count, seed: [{"text": "my", "label": "ab"[i % 2]} for i in range(count)])]
    for name, data, as_by in [("text", texts, "tokens"), *((name, data, "fisher") for name, data in same)]:
        (tmp_path / name).mkdir()
        config, lines = replace(base, **write_data(tmp_path / name, data), epochs=1), []
        for select in ("auto", as_by):
            train(replace(config, select=select, output=str(tmp_path / name / select)), lines.append)
        found = {select: Selection.load(tmp_path / name / select / "selection.safetensors") for select in ("auto", as_by)}
        assert found["auto"] == found[as_by]
        assert (tmp_path / name / "auto" / GROUPS).exists() == (name == "text")
        assert sum("no run of words tells a label" in line for line in lines) == (name == "constant")
    assert found["auto"] != Selection.load(tmp_path / "text" / "auto" / "selection.safetensors")


@pytest.mark.parametrize(("data", "rate"), [(texts, 1e-3), (sentences, 3e-3)])
def test_by_default_an_eighth_is_trained_in_dealt_groups(data, rate, base, tmp_path):
    unsaid = {"select": "auto", "per": "auto", "density": None, "learning_rate": None}
    config = replace(base, **write_data(tmp_path, data), output=str(tmp_path / "o"), epochs=1, **unsaid)
    report = train(config, silent)
    selection = Selection.load(tmp_path / "o" / "selection.safetensors")
    assert all(groups_of(entries.index, entries.layout) for entries in selection.values())
    assert selection.count / sum(line["entries"] for line in report.selection) == pytest.approx(1 / 8, abs=0.01)
    told = {name: report.config[name] for name in ("kind", "select", "density", "learning_rate")}
    assert told == {"kind": "groups", "select": "random", "density": 1 / 8, "learning_rate": rate}
    assert not (tmp_path / "o" / GROUPS).exists()
    assert choose_selection(replace(config, seed=config.run.seed + 1))[0] != selection == choose_selection(config)[0]


@pytest.mark.parametrize("task", ["sequence", "token"])
@pytest.mark.parametrize(
    "changes", [{"select": "fisher"}, {"backward": 0.5}, {"per": "weight"}, {"selection": "s"}, {"kind": "columns"}], ids=str
)
def test_what_shapes_the_units_leaves_columns(task, changes):
    config = resolved(TrainConfig(**changes), TASKS[task])
    chosen = config.selecting
    assert (chosen.kind, chosen.density, chosen.select) == ("columns", 0.02, changes.get("select", "auto"))
    assert config.training.learning_rate == {"sequence": 1e-3, "token": 3e-3}[task] and resolved(config, TASKS[task]) == config


def test_another_size_of_block_asks_for_blocks():
    chosen = resolved(TrainConfig(block=16), TASKS["sequence"]).selecting
    assert (chosen.kind, chosen.block, chosen.density, chosen.select) == ("blocks", 16, 0.1, "random")


@pytest.mark.parametrize("task", ["sequence", "token"])
@pytest.mark.parametrize("given", [{"density": 0.3}, {"learning_rate": 0.5}, {"layers": "upper half"}], ids=str)
def test_what_is_given_stays(task, given):
    assert resolved(TrainConfig(**given), TASKS[task]) == replace(resolved(TrainConfig(), TASKS[task]), **given)
    rate = given.get("learning_rate", {"sequence": 1e-3, "token": 3e-3}[task])
    assert resolved(TrainConfig(**given, method="lora"), TASKS[task]).training.learning_rate == rate


def test_weights_of_which_nothing_was_chosen_have_a_line(base, tmp_path):
    report = train(replace(base, output=str(tmp_path / "o"), per="model", density=0.005, epochs=1), silent)
    left = [line for line in report.selection if line["selected_entries"] == 0]
    assert left and all(line["kind"] == "" and line["chosen"] == 0 < line["sensitivity"] for line in left)


def test_the_picture_is_drawn_where_matplotlib_is(base, finished, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    assert (Path(finished[0].run.output) / PICTURE).read_bytes().startswith(b"\x89PNG")
    lines = []
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    config = replace(base, output=str(tmp_path / "o"), epochs=1)
    train(config, lines.append)
    assert not (tmp_path / "o" / PICTURE).exists() and (tmp_path / "o" / SCORES).exists()
    assert any("selection.png left out" in line and 'pip install "clm-kernels[pictures]"' in line for line in lines)
    (tmp_path / "o" / PICTURE).touch()
    train(replace(config, overwrite=True, select="random"), silent)
    assert not (tmp_path / "o" / PICTURE).exists() and not (tmp_path / "o" / SCORES).exists()


def test_single_elements_are_trained(base, tmp_path):
    report = train(replace(base, output=str(tmp_path / "o"), kind="elements", per="model", density=0.05, epochs=1), silent)
    assert {line["kind"] for line in report.selection} == {"elements"} and 0 < report.cost["share"] < 1
    assert sum(line["selected_entries"] for line in report.selection) == round(0.05 * 14_336)
    with pytest.raises(ValueError, match=r"^choose: per must be model for elements, got 'weight'$"):
        train(replace(base, output=str(tmp_path / "p"), kind="elements", per="weight"), silent)


def test_chance_and_selections_from_files_are_no_sensitivity(base, finished, tmp_path):
    for changes in (
        {"select": "random"},
        {"select": "magnitude"},
        {"selection": f"{finished[0].run.output}/selection.safetensors"},
    ):
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
    resumed = train(TrainConfig(output=str(tmp_path / "o"), resume=True), silent)
    assert (resumed.selection, resumed.cost) == (report.selection, report.cost)


def test_the_command_line_says_what_the_selected_entries_hold(base, tmp_path):
    options = [part for name in FILES for part in (f"--{name}", base.options()[name])]
    options += ["--batch-size", 8, "--density", "0.1", "--sensitivity-examples", 24, "--select", "tokens"]
    result = run("train", *options, "--output", tmp_path / "o", "--epochs", 1)
    assert result.exit_code == 0, result.stderr
    lines = Overview(Line(**line) for line in json.loads((tmp_path / "o" / "report.json").read_text())["selection"])
    assert " of 14,336 entries hold " in lines.hold
    for output in (result.stdout, run("select", *options).stdout):
        said = " ".join(output.split())
        assert lines.hold in said and "selected:" in said
        assert all(heading in said for heading in ("layer", "query", "chosen", "left"))
    assert "of full fine-tuning's FLOPs" in result.stdout
    assert "hold" not in run("select", *options, "--select", "random").stdout


# The backward's share of full fine-tuning's FLOPs


def counted(config, report):
    """What `step_cost` says of the run's selection, for batches of the size that the report names."""
    base = AutoModelForSequenceClassification.from_pretrained(config.data.model, num_labels=3)
    selection = Selection.load(Path(config.run.output) / "selection.safetensors")
    return step_cost(base, selection, **{name: report.cost[name] for name in ("batch", "length")}, biases=True, norms=True)


def test_the_report_says_what_the_backward_costs(finished):
    config, report = finished
    cost = counted(config, report)
    assert report.cost["batch"] == 8 and 3 <= report.cost["length"] <= 6
    assert report.cost["share"] == cost.share and {name: report.cost[name] for name in cost._fields} == cost._asdict()
    assert 0.4 < cost.share < 0.6  # 10 % of every layer: the input gradients go to the bottom
    table = Console(width=120, record=True, file=StringIO())
    table.print(show.summary(report))
    assert f"{cost.share:.1%} of full fine-tuning's FLOPs" in table.export_text()


def test_what_each_way_of_training_costs(base, finished, tmp_path):
    output = str(tmp_path / "o")
    changes = {
        "full": {"method": "full"},
        "head": {"method": "head"},
        "upper": {"layers": "upper half"},
        "bounded": {"backward": 0.55, "per": "model"},
    }
    share = {}
    for name, changed in changes.items():
        config = replace(base, output=output, epochs=1, overwrite=True, **changed)
        share[name] = train(config, silent).cost["share"]
    assert share["full"] == 1 and share["head"] < 0.05 < share["upper"] < finished[1].cost["share"]
    assert 0.3 < share["bounded"] <= 0.55


def test_a_model_whose_cost_cannot_be_told_trains_all_the_same(base, tmp_path, monkeypatch):
    def unknown(*args):
        raise ValueError("cost: the layers' weights must have two dims")

    monkeypatch.setattr("clm_kernels.finetune.methods.patched.CostModel", unknown)
    lines = []
    report = train(replace(base, output=str(tmp_path / "o"), epochs=1), lines.append)
    assert report.cost == {} and report.best
    assert "the backward's FLOPs are not counted: cost: the layers' weights must have two dims" in lines
    table = Console(width=120, record=True, file=StringIO())
    table.print(show.summary(report))
    assert "FLOPs" not in table.export_text()
