"""`--json` and `--quiet` of every command, and `train --help` on one screen."""

import json
import re
from types import SimpleNamespace

import needs_datasets  # noqa: F401
import pytest
import typer
from command_line import run
from tiny_task import save_model, write_data

from clm_kernels.cli import app
from clm_kernels.cli.brief import COMMON
from clm_kernels.cli.told import Told, prints_its_essence, telling
from clm_kernels.finetune import Report
from clm_kernels.finetune.config import OPTIONS
from clm_kernels.finetune.tasks.base import Prediction

FAST = ["--epochs", "1", "--batch-size", "8", "--sensitivity-examples", "24", "--learning-rate", "0.01"]
NAMES = [command.name or command.callback.__name__ for command in app.registered_commands]
ENDS = [name for name in NAMES if name != "serve"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    found = {"model": save_model(folder / "model"), **write_data(folder), "folder": folder, "output": folder / "out"}
    data = [f"--{part}={found[part]}" for part in ("train", "validation", "test")]
    found["arguments"] = [f"--model={found['model']}", *data, *FAST]
    done = run("train", *found["arguments"], "--output", found["output"])
    assert done.exit_code == 0, done.stderr
    return found


@pytest.fixture
def stubbed(monkeypatch):
    """In place of what takes long, or a model that is not at hand."""
    from clm_kernels import demo
    from clm_kernels.measure import bench

    report = Report({}, {}, ["a"], [], 1, 2, "accuracy", [], {"epoch": 1, "step": 1, "train_loss": None, "accuracy": 0.5})
    report.seconds, report.sizes, report.test = (
        {"selecting": 0.0, "epochs": [1.0]},
        {"checkpoint": 2, "delta": 1},
        {"accuracy": 0.5},
    )
    outcome = SimpleNamespace(sparse=report, full=report, sparse_epoch=1.0, full_epoch=2.0)
    outcome.predictions = [(Prediction("my refund", "a", 0.5), "a")]
    monkeypatch.setattr(demo, "run", lambda *_: outcome)
    monkeypatch.setattr(demo, "model_directory", lambda: None)
    row = {"op": "gather", "kind": "rows", "implementation": "cpu", "microseconds": 2.0, "GB/s": 1.0, "% of copy": 1.0}
    monkeypatch.setattr(bench, "OPS", ("gather",))
    monkeypatch.setattr(bench, "KINDS_OF", {"gather": ("rows",)})
    monkeypatch.setattr(bench, "build", lambda *_: None)
    monkeypatch.setattr(bench, "measure", lambda *_, **__: {**row, "% of product": float("nan"), "faster than": {}})
    machine = SimpleNamespace(copy=1.0, described=lambda place: {"device": str(place)})
    monkeypatch.setattr(bench, "Machine", SimpleNamespace(measure=lambda place: machine))


def arguments(name, files):
    base = files["model"]
    return {
        "check": [files["train"], "--test", files["test"]],
        "train": [*files["arguments"], "--output", files["folder"] / "other", "--overwrite"],
        "predict": ["--model", files["output"], files["test"]],
        "evaluate": [files["output"], files["test"], "--draws", "5"],
        "export": ["--model", files["output"], "--output"],
        "select": files["arguments"][:3] + FAST[2:6],
        "tokens": [f"--model={base}", f"--train={files['train']}", "--minimum", "2"],
        "doctor": [],
        "demo": [],
        "bench": [],
        "profile": ["--model", base, "--length", "8", "--batch-size", "2", "--steps", "1"],
        "estimate": ["--model", base, "--length", "8", "--batch-size", "2"],
    }[name]


ESSENCE = {
    "check": r"\d+ warning", "train": r"validation accuracy [\d.]+, test accuracy [\d.]+: \S+other", "evaluate": r"accuracy [\d.]+ \(",
    "export": "saved: ", "select": "selected: ", "tokens": "(?m)^billing: ", "doctor": "missing", "demo": "test accuracy: a selection 0.5",
    "bench": "gather rows cpu 2 µs", "profile": r"full: [\d.]+ ms a step", "estimate": r"sparse: [\d.]+ GB at the peak",
    "predict": r"\t0\.\d+\t",
}  # fmt: skip


@pytest.mark.parametrize("name", ENDS)
def test_one_document_or_the_essence(files, stubbed, name):
    given = arguments(name, files)
    extra = (lambda which: [files["folder"] / which]) if name == "export" else lambda which: []
    told = run(name, *given, *extra("a"), "--json")
    assert told.exit_code == 0, told.stderr
    document = json.loads(told.stdout, parse_constant=pytest.fail)
    assert isinstance(document, dict) and document and told.stdout.isascii()
    quiet = run(name, *given, *extra("b"), "--quiet")
    assert (quiet.exit_code, quiet.stderr) == (told.exit_code, "")
    assert re.search(ESSENCE[name], quiet.stdout) and len(quiet.stdout) < 2000
    assert not re.search("[─│┃╭]", quiet.stdout)


def test_predictions_are_those_of_jsonl(files):
    lines = run("predict", "--model", files["output"], files["test"], "--jsonl", "--top", "2").stdout.splitlines()
    told = json.loads(run("predict", "--model", files["output"], files["test"], "--json", "--top", "2").stdout)
    assert told["predictions"] == [json.loads(line) for line in lines] and told["cut_off"] == 0


def test_the_document_of_a_run_is_its_report(files, tmp_path):
    told = run("train", *files["arguments"], "--output", tmp_path / "o", "--json", "--quiet")
    assert json.loads(told.stdout) == json.loads((tmp_path / "o" / "report.json").read_text()) and told.stderr == ""


def test_errors_are_told_all_the_same(files, tmp_path):
    for option in ("--json", "--quiet"):
        wrong = run("train", *files["arguments"], option, "--density", "2", "--output", tmp_path / "o")
        assert (wrong.exit_code, wrong.stdout) == (2, "") and wrong.stderr.startswith("error: train: density must be")


def test_what_a_command_prints_goes_nowhere():
    """With --json and --quiet, whatever stands beside the result; one that prints its essence itself is left to."""
    import sys

    def told(command, **given):
        made = typer.Typer()
        made.command()(telling(command))
        from typer.testing import CliRunner

        found = CliRunner().invoke(made, [f"--{name}" for name in given])
        return found.stdout, found.stderr

    def command() -> Told:
        print("table")
        print("progress", file=sys.stderr)
        return Told({"nan": float("nan"), "of": [(1, float("inf"))]}, "essence\x1b")

    assert told(command) == ("table\n", "progress\n")
    assert told(command, quiet=1) == ("essence\\x1b\n", "")
    out, err = told(command, json=1)
    assert json.loads(out) == {"nan": None, "of": [[1, None]]} and err == "progress\n"
    assert told(prints_its_essence(command), quiet=1)[0].startswith("table\n")


# --help


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")


def test_the_help_of_train_fits_a_screen_in_groups(terminal):
    shown = run("train", "--help").stdout
    lines = shown.strip().splitlines()
    assert len(lines) <= 45 and max(map(len, lines)) <= 80
    for words in (
        "Data and model",
        "Training",
        "--skip-bad-rows",
        "--minutes",
        "--balance",
        "--text-column",
        "--label-column",
        "--model",
        "--help-all",
    ):
        assert words in shown
    assert "--lora-rank" not in shown and COMMON.keys() <= OPTIONS.keys()


def test_the_rest_stands_under_help_all(terminal):
    shown = run("train", "--help-all")
    assert shown.exit_code == 0 and len(shown.stdout.splitlines()) > 150
    for words in ("--lora-rank", "LoRA", "Directory of the model to start from", "(config.json, weights, tokenizer)"):
        assert words in shown.stdout
    assert "--lora-rank" in run("estimate", "--help").stdout
