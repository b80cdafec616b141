"""A new method and a new task are a file and a line each, as CONTRIBUTING.md says: both are added to a copy and used."""

import json
import os
import shutil
import subprocess
import sys

import needs_datasets  # noqa: F401
import pytest
from places import ROOT
from tiny_task import save_model, texts, write_jsonl

METHOD = '''
from .full import Full


class Biases(Full):
    """The biases and the head, whole."""

    def prepare(self, model, config, selection, *, head=True, extension=None):
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.endswith("bias") or "classifier" in name)
        return super().prepare(model, config, selection, head=head, extension=extension)
'''
TASK = '''
from ..metrics import accuracy
from .sequence import SequenceClassification


class Answers(SequenceClassification):
    """Which of some standing answers a question gets."""

    fields = ("question", "answer", "certainty")

    def columns(self, data):
        return "question", "answer"

    def scores(self, label_names):
        return ("answered",)

    def score(self, encoded, label_names):
        gold = encoded.split.labels
        return lambda result: {"answered": accuracy(gold, [label_names[i] for i in result.predictions])}
'''


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A folder with the package, to which a method and a task were added; the paths that were written."""
    folder = tmp_path_factory.mktemp("copy")
    package = folder / "clm_kernels"
    shutil.copytree(ROOT / "clm_kernels", package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "finetune" / "methods" / "biases.py").write_text(METHOD)
    (package / "finetune" / "tasks" / "answers.py").write_text(TASK)
    names = package / "finetune" / "names.py"
    listed = names.read_text()
    for table, line in (("METHODS", '"biases": "biases:Biases"'), ("TASKS", '"answers": "answers:Answers"')):
        assert f"{table} = {{" in listed
        listed = listed.replace(f"{table} = {{", f"{table} = {{{line}, ")
    names.write_text(listed)
    return folder


SCRIPT = """
import json, sys
from typer.testing import CliRunner
from clm_kernels.cli import app
said = []
for arguments in json.loads(sys.argv[1]):
    done = CliRunner().invoke(app, arguments, input="my refund\\n")
    assert done.exit_code == 0, (arguments, done.output, done.exception)
    said.append(done.stdout)
print(json.dumps(said))
"""


def run(copy, *commands):
    """What each command says, one after the other in a process that imports the copy."""
    environment = {**os.environ, "PYTHONPATH": str(copy), "HF_HUB_OFFLINE": "1"}
    given = json.dumps([[*map(str, command)] for command in commands])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, given], env=environment, cwd=copy, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_both_are_learnt_saved_and_read_again(copy, tmp_path):
    model = save_model(tmp_path / "model")
    rows = [{"question": row["text"], "answer": row["label"]} for row in texts(48, 0)]
    data = write_jsonl(tmp_path / "train.jsonl", rows)
    options = ["--model", model, "--train", data, "--epochs", 3, "--batch-size", 8, "--learning-rate", 0.02, "--pooling", "mean"]
    methods = {"biases": "checkpoint", "sparse": "delta"}
    trainings = [["train", *options, "--method", method, "--output", tmp_path / method] for method in methods]
    *_, predicted = run(copy, *trainings, ["predict", "--model", tmp_path / "sparse", "--jsonl"])
    for method, trained in methods.items():
        report = json.loads((tmp_path / method / "report.json").read_text())
        assert (report["data"]["task"], report["best_by"]) == ("answers", "answered") and trained in report["sizes"]
        assert report["best"]["answered"] > 0.9 and report["trained"] < report["parameters"]
    (prediction,) = map(json.loads, predicted.splitlines())
    assert prediction["question"] == "my refund" and prediction["answer"] == "billing"


def test_they_are_options_everywhere(copy, tmp_path):
    model = save_model(tmp_path / "model")
    small = ["--model", model, "--method", "biases", "--batch-size", 2]
    described, estimated, profiled = run(
        copy, ["train", "--help-all"], ["estimate", *small, "--length", 16], ["profile", *small, "--length", 8, "--steps", 1]
    )
    assert all(name in described for name in ("biases", "answers"))
    assert "biases: model" in estimated and "biases" in profiled
