"""`--long`: windows by their definition, and what says that a text was cut off."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from command_line import run
from tiny_runs import base, finished, silent  # noqa: F401
from tiny_task import sentences, texts, tokenizer, write_data, write_jsonl
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

import clm_kernels as clm
from clm_kernels.finetune import Classifier, train
from clm_kernels.finetune.split import Split
from clm_kernels.finetune.tasks import TASKS
from clm_kernels.finetune.windows import windows_of

WORDS = ["my", "the", "please", "where", "is", "a", "with", "about", "it", "now", "refund"]
LONG, SHORT = " ".join(WORDS * 3), "my refund now"


def as_split(texts):
    return Split("", texts, ["a" if text == SHORT else "b" for text in texts], range(len(texts)))


@pytest.fixture
def classifier(finished):  # noqa: F811
    found = Classifier.load(finished[0].run.output)
    found.max_length = 10  # two of them special
    return found


def test_windows_hold_every_token_and_overlap_by_a_quarter():
    found = windows_of(as_split([SHORT, LONG]), tokenizer(), 10)
    parts = list(found.rows.texts)
    assert found.owners.tolist() == [0, *[1] * (len(parts) - 1)] and parts[0] == SHORT
    words = LONG.split()
    begins = [*range(0, len(words) - 8, 6), len(words) - 8]
    assert parts[1:] == [" ".join(words[begin : begin + 8]) for begin in begins]
    assert found.told() == {"texts": 1, "windows": len(begins)}
    assert found.rows.labels == ["a", *["b"] * len(begins)] and found.rows.where == [0, *[1] * len(begins)]


def test_the_end_of_a_text_fits_where_it_begins_within_a_word():
    """Its rest may be of more tokens alone."""
    pieces = ["[PAD]", "[UNK]", "ab", "##cd", "c", "##d"]
    made = Tokenizer(WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    made.pre_tokenizer = Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]")
    parts = list(windows_of(as_split(["abcd abcd abcd abcd"]), fast, 5).rows.texts)
    assert parts == ["abcd abcd ab", "abcd abcd"]


def test_the_windows_of_a_text_weigh_one_together():
    found = windows_of(as_split([LONG, SHORT, LONG + " " + LONG]), tokenizer(), 10)
    assert np.bincount(found.owners, found.weights).tolist() == pytest.approx([1, 1, 1]) and len(set(found.weights)) == 3
    encoded = TASKS["sequence"].encode(as_split([LONG, SHORT]), ["a", "b"], tokenizer(), 10, False, long="window")
    assert np.mean(encoded.weights) == pytest.approx(1) and encoded.weights[0] * 6 == pytest.approx(encoded.weights[-1])
    assert (encoded.cut, len(encoded.split), len(encoded.dataset)) == (0, 2, 7)


def test_one_window_of_each_text_is_drawn_by_the_seed():
    found = windows_of(as_split([LONG, SHORT, LONG + " " + LONG]), tokenizer(), 10)
    drawn = [found.one_each(seed) for seed in range(20)]
    assert all(found.owners[rows].tolist() == [0, 1, 2] for rows in drawn)
    assert len({tuple(rows) for rows in drawn}) > 10 and found.one_each(3).tolist() == found.one_each(3).tolist()


def test_where_every_text_fits_there_are_none():
    encoded = TASKS["sequence"].encode(as_split([SHORT]), ["a"], tokenizer(), 10, False, long="window")
    assert encoded.windows is None and encoded.weights is None and encoded.rows is encoded.split


def test_rows_are_pooled_by_text_in_whatever_order_they_stand():
    split = as_split([SHORT, LONG, SHORT])
    encoded = TASKS["sequence"].encode(split, ["a", "b"], tokenizer(), 10, True, long="window")
    assert list(encoded.split.where) == [1, 0, 2]
    rows = [np.array([float(i), 1.0]) for i in range(len(encoded.dataset))]
    assert [row.tolist() for row in encoded.pooled(rows)] == [[2.5, 1], [6, 1], [7, 1]]
    assert encoded.labelled["labels"][:] == [1, 0, 0]
    part = encoded.part([0, 2])
    assert [row.tolist() for row in part.pooled(rows[:7])] == [[2.5, 1], [6, 1]] and len(part.dataset) == 7


def test_they_fit_into_the_template():
    made, template = tokenizer(), "is {text} about it"
    parts = windows_of(as_split([LONG]), made, 10, template).rows.texts
    assert all(len(made(template.replace("{text}", part))["input_ids"]) == 10 for part in parts)
    with pytest.raises(ValueError, match="more tokens than the template takes"):
        windows_of(as_split([LONG]), made, 5, template)


def test_a_prediction_is_the_mean_over_its_windows(classifier):
    parts = windows_of(as_split([LONG]), classifier.tokenizer, 10).rows.texts
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
    with pytest.raises(ValueError, match="long must be 'truncate', 'window' or 'error', got 'other'"):
        replace(config, long="other").check()
