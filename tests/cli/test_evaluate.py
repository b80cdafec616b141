"""``clm-kernels evaluate``, and what ``predict`` makes of calibrated probabilities."""

import json

import pytest
from command_line import run
from tiny_task import save_model, sentences, texts, write_data, write_jsonl

from clm_kernels.finetune import Classifier

FAST = ["--epochs", "2", "--learning-rate", "0.01", "--batch-size", "8", "--method", "head"]


def trained_in(folder, make):
    options = [option for part, path in write_data(folder, make).items() for option in (f"--{part}", path)]
    result = run("train", "--model", save_model(folder / "model"), *options, "--output", folder / "out", *FAST)
    assert result.exit_code == 0, result.stderr
    return folder / "out", result


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return trained_in(tmp_path_factory.mktemp("texts"), texts)


@pytest.fixture(scope="module")
def tagger(tmp_path_factory):
    return trained_in(tmp_path_factory.mktemp("tags"), sentences)[0]


@pytest.fixture
def data(tmp_path):
    rows = texts(30, 7)
    return write_jsonl(tmp_path / "new.jsonl", [rows[0] | {"label": rows[1]["label"]}, *rows[1:]])


def test_train_says_the_temperature(trained):
    output, result = trained
    temperature = Classifier.load(output).calibration.temperature
    assert f"{temperature:.2f} (calibration error on validation" in " ".join(result.stdout.split())


def test_the_tables_fit_80_columns(trained, data, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    output, _ = trained
    result = run("evaluate", output, data, "--compare", output)
    assert result.exit_code == 0, result.stderr
    for words in ("scores", "accuracy", "macro f1", "intervals of 1,000 draws with seed 1", "McNemar", "classes", "support",
                  "taken for another", "calibration error", "likely mislabelled", "saved: "):  # fmt: skip
        assert words in " ".join(result.stdout.split()), words
    tables, path = result.stdout.split("saved: ")
    assert max(map(len, tables.splitlines())) <= 80 and path.split() == [f"{output}/evaluation-new"]


def test_json_is_all_there_is(trained, data, tmp_path):
    result = run("evaluate", trained[0], data, "--json", "--output", tmp_path / "o", "--draws", "5", "--seed", "3")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found == json.loads((tmp_path / "o" / "evaluation.json").read_text())
    assert (found["draws"], found["seed"], found["rows"]) == (5, 3, 30)
    assert found["scores"]["accuracy"].keys() == {"score", "low", "high"} and len(found["bins"]) == 15


def test_a_tagger_is_judged(tagger, tmp_path):
    data = write_jsonl(tmp_path / "s.jsonl", sentences(9, 5))
    result = run("evaluate", tagger, data, "--output", tmp_path / "o", "--draws", "5")
    assert result.exit_code == 0, result.stderr
    assert "PER" in result.stdout and "words wrong" in result.stdout


def test_a_file_that_is_not_there_is_one_line(trained, tmp_path):
    result = run("evaluate", trained[0], tmp_path / "gone.jsonl")
    assert result.exit_code == 2 and result.stderr.count("\n") == 1 and "an existing file" in result.stderr


# predict


def test_the_best_labels_stand_before_the_text(trained):
    plain, ranked = (run("predict", "--model", trained[0], *more, input="my refund\n") for more in ([], ["--top", "3"]))
    assert plain.exit_code == ranked.exit_code == 0, ranked.stderr
    label, probability, text = plain.stdout.rstrip("\n").split("\t")
    fields = ranked.stdout.rstrip("\n").split("\t")
    assert fields[:2] == [label, probability] and fields[-1] == text and len(fields) == 7
    assert set(fields[:-1:2]) == {"access", "billing", "delivery"}


def test_the_best_labels_as_json(trained):
    result = run("predict", "--model", trained[0], "--top", "2", "--jsonl", input="my refund\n")
    found = json.loads(result.stdout)
    assert found["best"][0]["label"] == found["label"]
    assert len(found["best"]) == 2 and found["best"][0]["probability"] == found["probability"]


def test_what_is_rejected_has_no_label_and_the_coverage_is_said(trained):
    kept = Classifier.load(trained[0]).calibration.table[-1]
    lines = "\n".join(row["text"] for row in texts(60, 3))
    wanted = str(kept.precision)
    result, as_json = (
        run("predict", "--model", trained[0], "--reject", wanted, *more, input=lines) for more in ([], ["--jsonl"])
    )
    assert result.exit_code == 0, result.stderr
    threshold = Classifier.load(trained[0]).calibration.threshold(kept.precision).threshold
    assert result.stderr.startswith(f"no label below {threshold:.3f}: of 18 validation texts")
    rows = [line.split("\t") for line in result.stdout.splitlines()]
    found = [json.loads(line) for line in as_json.stdout.splitlines()]
    assert [row[0] == "-" for row in rows] == [line["label"] is None for line in found] == [
        line["probability"] < threshold for line in found
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "told"), [(["--top", "4"], "top must be a whole number from 1 to 3"), (["--reject", "2"], "a precision")]
)
def test_what_cannot_be_asked_for_is_one_line(trained, options, told):
    result = run("predict", "--model", trained[0], *options, input="my refund\n")
    assert result.exit_code == 2 and told in result.stderr and result.stderr.count("\n") == 1 and result.stdout == ""


@pytest.mark.parametrize("options", [["--top", "2"], ["--reject", "0.5"]])
def test_a_tagger_takes_neither(tagger, options):
    result = run("predict", "--model", tagger, *options, input="Anna lives\n")
    assert result.exit_code == 2 and "must be left out for tags" in result.stderr and result.stderr.count("\n") == 1
