"""`--long`: windows by their definition, and what says that a text was cut off."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from command_line import run
from tiny_runs import base, finished, silent  # noqa: F401
from tiny_task import sentences, texts, tokenizer, write_data, write_jsonl

import clm_kernels as clm
from clm_kernels.finetune import Classifier, train
from clm_kernels.finetune.windows import window_texts

WORDS = ["my", "the", "please", "where", "is", "a", "with", "about", "it", "now", "refund"]
LONG, SHORT = " ".join(WORDS * 3), "my refund now"


@pytest.fixture
def classifier(finished):  # noqa: F811
    found = Classifier.load(finished[0].run.output)
    found.max_length = 10  # two of them special
    return found


def test_windows_hold_every_token_and_overlap_by_a_quarter():
    parts, owners = window_texts([SHORT, LONG], tokenizer(), 10)
    assert owners.tolist() == [0, *[1] * (len(parts) - 1)] and parts[0] == SHORT
    words = LONG.split()
    begins = [*range(0, len(words) - 8, 6), len(words) - 8]
    assert parts[1:] == [" ".join(words[begin : begin + 8]) for begin in begins]


def test_they_fit_into_the_template():
    made, template = tokenizer(), "is {text} about it"
    parts, _ = window_texts([LONG], made, 10, template)
    assert all(len(made(template.replace("{text}", part))["input_ids"]) == 10 for part in parts)
    with pytest.raises(ValueError, match="more tokens than the template takes"):
        window_texts([LONG], made, 5, template)


def test_a_prediction_is_the_mean_over_its_windows(classifier):
    parts, _ = window_texts([LONG], classifier.tokenizer, 10)
    with torch.no_grad():
        logits = [classifier.model(**classifier.tokenizer(part, return_tensors="pt")).logits[0] for part in parts]
    expected = (torch.stack(logits).mean(0) / classifier.calibration.temperature).softmax(-1)
    short, long = classifier.predict([SHORT, LONG], long="window", batch_size=2)
    assert long.text == LONG and not long.truncated and long.label == classifier.label_names[int(expected.argmax())]
    assert long.probability == pytest.approx(float(expected.max()), abs=1e-5)
    assert short.probability == pytest.approx(classifier.predict(SHORT).probability, abs=1e-5)
    assert classifier.predict(LONG, long="window", top=2).best[0] == (long.label, pytest.approx(long.probability))


def test_what_is_cut_off_says_so(classifier):
    short, long = classifier.predict([SHORT, LONG])
    assert (short.truncated, long.truncated, classifier.cut) == (False, True, 1)
    assert classifier.predict(LONG, top=2).truncated
    classifier.template = "is {text} about it now"
    assert [found.truncated for found in classifier.predict([SHORT, LONG])] == [False, True]


def test_an_error_names_the_text(classifier):
    with pytest.raises(
        ValueError, match="the texts must be of at most 10 tokens, as long is 'error', got 1 texts beyond, as in text 2"
    ):
        list(classifier.predict([SHORT, LONG], long="error"))
    with pytest.raises(ValueError, match="long must be 'truncate', 'window' or 'error'"):
        classifier.predict([SHORT], long="other")


def test_the_commands_take_it(base, tmp_path):  # noqa: F811
    config = replace(base, epochs=1, max_length=10, output=str(tmp_path / "o"))
    train(config, silent)
    lines = run("predict", "--model", tmp_path / "o", "--jsonl", input=f"{LONG}\n{SHORT}\n").stdout.splitlines()
    assert [json.loads(line).get("truncated") for line in lines] == [True, None]
    in_windows = run("predict", "--model", tmp_path / "o", "--jsonl", "--long", "window", input=f"{LONG}\n").stdout
    assert "truncated" not in json.loads(in_windows)
    data = write_jsonl(tmp_path / "t.jsonl", [{**row, "text": f"{LONG} {row['text']}"} for row in texts(6, 3)])
    ways = {long: clm.evaluate(tmp_path / "o", data, tmp_path / long, long=long) for long in ("truncate", "window")}
    assert ways["truncate"].calibration_error != ways["window"].calibration_error
    predicted = [
        each.label
        for each in Classifier.load(tmp_path / "o").predict([LONG + " " + r["text"] for r in texts(6, 3)], long="window")
    ]
    right = np.mean([label == row["label"] for label, row in zip(predicted, texts(6, 3))])
    assert ways["window"].scores["accuracy"].score == pytest.approx(right)
    refused = run("evaluate", tmp_path / "o", data, "--long", "error", "--output", tmp_path / "e")
    assert refused.exit_code != 0 and "6 texts beyond, as in" in refused.stderr and not (tmp_path / "e").exists()


def test_training_refuses_what_is_too_long_if_asked_to(base, tmp_path):  # noqa: F811
    config = replace(base, **write_data(tmp_path, sentences, 12), max_length=8, long="error", output=str(tmp_path / "o"))
    train_ = write_jsonl(tmp_path / "long.jsonl", [{"tokens": LONG.split(), "tags": ["O"] * 33}, *sentences(12, 0)])
    with pytest.raises(
        ValueError, match=r"train must be of at most 8 tokens, as long is 'error', got 27 words beyond, as in .*line 1"
    ):
        train(replace(config, train=train_), silent)
    assert not (tmp_path / "o").exists()
    with pytest.raises(ValueError, match="long must be truncate or error, as training reads no windows"):
        replace(config, long="window").check()


def test_windows_are_refused_for_tags(base, tmp_path):  # noqa: F811
    config = replace(base, **write_data(tmp_path, sentences, 12), epochs=1, output=str(tmp_path / "o"))
    train(config, silent)
    tagger = Classifier.load(tmp_path / "o")
    with pytest.raises(ValueError, match="long must be truncate or error for tags"):
        tagger.predict([["Anna"]], long="window")
    tagger.max_length = 8
    assert [found.truncated for found in tagger.predict([["Anna"], ["Anna"] * 9])] == [False, True]
