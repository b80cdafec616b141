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


def run(copy, *arguments, input=None):
    environment = {**os.environ, "PYTHONPATH": str(copy), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "clm_kernels", *map(str, arguments)]
    done = subprocess.run(command, env=environment, cwd=copy, input=input, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_both_are_learnt_saved_and_read_again(copy, tmp_path):
    model = save_model(tmp_path / "model")
    rows = [{"question": row["text"], "answer": row["label"]} for row in texts(48, 0)]
    data = write_jsonl(tmp_path / "train.jsonl", rows)
    options = ["--model", model, "--train", data, "--epochs", 3, "--batch-size", 8, "--learning-rate", 0.02, "--pooling", "mean"]
    for method, trained in (("biases", "checkpoint"), ("sparse", "delta")):
        output = tmp_path / method
        run(copy, "train", *options, "--method", method, "--output", output)
        report = json.loads((output / "report.json").read_text())
        assert (report["data"]["task"], report["best_by"]) == ("answers", "answered") and trained in report["sizes"]
        assert report["best"]["answered"] > 0.9 and report["trained"] < report["parameters"]
    (prediction,) = map(
        json.loads, run(copy, "predict", "--model", tmp_path / "sparse", "--jsonl", input="my refund\n").splitlines()
    )
    assert prediction["question"] == "my refund" and prediction["answer"] == "billing"


def test_they_are_options_everywhere(copy, tmp_path):
    model = save_model(tmp_path / "model")
    assert all(name in run(copy, "train", "--help-all") for name in ("biases", "answers"))
    assert "biases: model" in run(copy, "estimate", "--model", model, "--method", "biases", "--length", 16, "--batch-size", 2)
    small = ["--length", 8, "--batch-size", 2, "--steps", 1]
    assert "biases" in run(copy, "profile", "--model", model, "--method", "biases", *small)
