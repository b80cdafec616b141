"""Token groups from the command line, in `train --select`, and in `choose`."""

import json
import sys
from dataclasses import replace

import pytest
from models import build
from tiny_task import TOPICS, save_model, sentences, texts, tokenizer, write_data
from transformers import AutoModelForSequenceClassification
from typer.testing import CliRunner

import clm_kernels as clm
from clm_kernels import Selection
from clm_kernels.cli import app
from clm_kernels.selecting.budget.cost import step_cost
from clm_kernels.token_groups import TokenGroups, token_groups


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


def test_tokens_prints_saves_and_draws_what_tells_the_label(model, data, tmp_path):
    output, picture = tmp_path / "groups.json", tmp_path / "groups.svg"
    result = run("tokens", "--model", model, "--train", data["train"], "--top", "2", "--output", output, "--picture", picture)
    assert result.exit_code == 0, result.output
    groups, drawn = TokenGroups.load(output), picture.read_text()
    for label, words in TOPICS.items():
        assert {group.text for group in groups.by_class[label]} == set(words)
        assert label in result.output and label in drawn
        assert all(word in result.output and word in drawn for word in words)


def test_tokens_of_words_with_tags(model, tmp_path):
    data = write_data(tmp_path, sentences)
    result = run("tokens", "--model", model, "--train", data["train"], "--top", "9", "--output", tmp_path / "groups.json")
    assert result.exit_code == 0, result.output
    groups = TokenGroups.load(tmp_path / "groups.json")
    assert {"anna", "bob"} <= {group.text for group in groups.by_class["PER"]}
    assert {"paris", "rome"} <= {group.text for group in groups.by_class["LOC"]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--measure", "tf-idf"], "measure must be one of log-odds, chi-squared, mutual-information, got 'tf-idf'"),
        (["--minimum", "0"], "minimum must be at least 1, got 0"),
        (["--train", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--model", "nowhere"], "tokens: model 'nowhere' must be a directory"),
    ],
)
def test_what_tokens_refuses(model, data, options, message):
    result = run("tokens", "--model", model, "--train", data["train"], *options)
    assert result.exit_code == 2 and message in result.stderr.replace("\n", " ")


def test_without_matplotlib_tokens_says_so(model, data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = run("tokens", "--model", model, "--train", data["train"], "--picture", tmp_path / "groups.png")
    assert (
        result.exit_code == 1 and 'tokens: the package matplotlib is needed: pip install "clm-kernels[pictures]"' in result.stderr
    )


TRAINING = ["--batch-size", "8", "--density", "0.1", "--sensitivity-examples", "24", "--epochs", "2", "--learning-rate", "0.01"]


@pytest.mark.parametrize("rule", ["tokens", "saliency", "magnitude", "random"])
def test_train_selects_by_another_rule(model, data, tmp_path, rule):
    files = [option for part, path in data.items() for option in (f"--{part}", path)]
    result = run("train", "--model", model, *files, "--output", tmp_path / "out", "--select", rule, *TRAINING)
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "out" / "token_groups.json").exists() == (rule == "tokens")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["config"]["select"] == rule
    own = Selection.load(tmp_path / "out" / "selection.safetensors")
    run(
        "select",
        "--model",
        model,
        "--train",
        data["train"],
        "--validation",
        data["validation"],
        "--output",
        tmp_path / "plain.safetensors",
        "--select",
        "fisher",
        *TRAINING[:6],
    )
    assert own != Selection.load(tmp_path / "plain.safetensors")  # the rule made a difference
    assert own.count == pytest.approx(Selection.load(tmp_path / "plain.safetensors").count, rel=0.1)


def test_train_needs_groups_to_select_by_them(model, tmp_path):
    data = write_data(tmp_path, lambda count, seed: [{"text": "my", "label": "ab"[i % 2]} for i in range(count)])
    result = run(
        "train", "--model", model, "--train", data["train"], "--output", tmp_path / "out", "--select", "tokens", *TRAINING
    )
    assert result.exit_code == 2 and "select must be another than 'tokens' for these data" in result.stderr
    assert not (tmp_path / "out").exists()


def test_choose_counts_groups_or_takes_them():
    rows, made = texts(48, 0), tokenizer()
    labels = sorted(TOPICS)
    model = build(num_labels=3)
    model.config.label2id = {label: i for i, label in enumerate(labels)}
    options = {"density": 0.1, "examples": 24}
    counted = clm.choose(model, made, rows, tokens=True, **options)
    given = token_groups(((row["text"], row["label"]) for row in rows), made)
    assert counted == clm.choose(model, made, rows, tokens=given, **options)
    assert counted != clm.choose(model, made, rows, **options)
    encoded = [{"input_ids": made(row["text"])["input_ids"], "labels": 0} for row in rows]
    with pytest.raises(ValueError, match="tokens must be groups that say something of the labels, got none"):
        clm.choose(model, made, rows, tokens=replace(given, by_class={}), **options)
    with pytest.raises(ValueError, match="dataset rows must have text and label where tokens is True"):
        clm.choose(model, made, encoded, tokens=True)


@pytest.mark.parametrize(("kind", "backward"), [("heads+neurons", None), ("neurons", 0.6), ("columns", 0.55)])
def test_train_by_coupled_units_and_by_backward(model, data, tmp_path, kind, backward):
    files = [option for part, path in data.items() for option in (f"--{part}", path)]
    more = [] if backward is None else ["--backward", backward]
    result = run("train", "--model", model, *files, "--output", tmp_path / "out", "--kind", kind, *more, *TRAINING)
    assert result.exit_code == 0, result.stderr
    selection = Selection.load(tmp_path / "out" / "selection.safetensors")
    kinds = {entries.kind for entries in selection.values()}
    assert kinds == ({"columns"} if kind == "columns" else {"rows", "columns"})
    if backward is not None:
        base = AutoModelForSequenceClassification.from_pretrained(model, num_labels=3)
        spent = step_cost(base, selection, batch=8, length=6, biases=True, norms=True)
        assert spent.share <= backward * 1.05  # the run's batches are not of exactly this size


def test_a_backward_that_admits_nothing(model, data, tmp_path):
    result = run(
        "train", "--model", model, "--train", data["train"], "--output", tmp_path / "out", "--backward", "0.001", *TRAINING
    )
    assert result.exit_code == 2 and "backward must be at least 0." in result.stderr and not (tmp_path / "out").exists()
    result = run("train", "--model", model, "--train", data["train"], "--output", tmp_path / "out", "--backward", "2", *TRAINING)
    assert result.exit_code == 2 and "backward must be in (0, 1], got 2.0" in result.stderr
    more = ("--backward", "0.5", "--merge-tokens", "3")
    result = run("train", "--model", model, "--train", data["train"], "--output", tmp_path / "out", *more, *TRAINING)
    assert result.exit_code == 2 and "backward must be left out with merge_tokens" in result.stderr
