"""Token ids, labels at first tokens, and words that do not fit."""

import json

import needs_datasets  # noqa: F401
import numpy as np
import pytest
import torch
from models import build
from tiny_task import sentences, texts, tokenizer
from tokenizers import Tokenizer
from transformers import EvalPrediction, GPT2Config, RobertaConfig

from clm_kernels.finetune.encode import IGNORED
from clm_kernels.finetune.models import Loaded, longest
from clm_kernels.finetune.split import Split
from clm_kernels.finetune.tasks import TASKS

TAGS = ["B-PER", "I-PER", "O"]


def split_of(texts, labels):
    return Split("file", texts, labels, [f"line {i + 1}" for i in range(len(texts))])


def test_labels_stand_at_first_tokens_only():
    split = split_of([["Anna", "refunds", "Paris"]], [["B-PER", "O", "O"]])
    encoded = TASKS["token"].encode(split, TAGS, tokenizer(), 16, sort=False)
    row = encoded.dataset[0]
    assert tokenizer().convert_ids_to_tokens(row["input_ids"]) == ["[CLS]", "anna", "refund", "##s", "paris", "[SEP]"]
    assert row["labels"] == [IGNORED, 0, 2, IGNORED, 2, IGNORED]
    assert encoded.first_tokens == [{0: 1, 1: 2, 2: 4}]


def test_cut_off_words_count_as_missed():
    words, tags = ["Anna", "Smith", "meets", "Bob", "Smith", "lives"], ["B-PER", "I-PER", "O", "B-PER", "I-PER", "O"]
    split = split_of([words, ["Bob"]], [tags, ["B-PER"]])
    encoded = TASKS["token"].encode(split, TAGS, tokenizer(), 6, sort=False)  # [CLS], four words, [SEP]
    assert encoded.cut == 2
    labels = np.full((2, 6), IGNORED)
    for i, row in enumerate(encoded.dataset["labels"]):
        labels[i, : len(row)] = row
    perfect = TASKS["token"].score(encoded, TAGS)(EvalPrediction(np.where(labels == IGNORED, 2, labels), labels))
    assert perfect["accuracy"] == 5 / 7  # a word that was cut off counts as wrong whatever its tag
    assert (perfect["recall"], perfect["precision"]) == (2 / 3, 2 / 3)  # "Bob Smith" found as "Bob" is neither


def test_words_without_a_token_count_as_missed():
    split = split_of([["Bob", "\u200b\u0301", "meets"]], [["B-PER", "O", "O"]])
    made = tokenizer()
    encoded = TASKS["token"].encode(split, TAGS, made, 16, sort=False)
    seen = list(encoded.first_tokens[0])
    assert encoded.cut == 3 - len(seen)
    labels = np.array(encoded.dataset["labels"])
    scores = TASKS["token"].score(encoded, TAGS)(EvalPrediction(labels, labels))
    assert scores["accuracy"] == len(seen) / 3


def directly(texts, labels, made, length, words, number):
    """Rows, first tokens and how much is cut, by one call of the tokenizer for each text."""
    rows, firsts, cut = [], [], 0
    for text, label in zip(texts, labels):
        encoding = made(text, is_split_into_words=words, truncation=True, max_length=length)
        row = {**encoding, "length": len(encoding["input_ids"])}
        ids = encoding.word_ids()
        if words:
            first = {word: ids.index(word) for word in ids if word is not None}
            at = {position: word for word, position in first.items()}
            row["labels"] = [number[label[at[i]]] if i in at else IGNORED for i in range(len(ids))]
            firsts.append(first)
            cut += len(text) - len(first)
        else:
            row["labels"] = number[label]
            cut += len(made(text)["input_ids"]) > length
        rows.append(row)
    return rows, firsts if words else None, cut


@pytest.mark.parametrize("task", ["sequence", "token"])
@pytest.mark.parametrize("sort", [False, True])
def test_rows_are_the_tokenizers_however_many_there_are_at_a_time(task, sort, monkeypatch):
    words = task == "token"
    rows = (sentences if words else texts)(50, 3)
    names = sorted({tag for row in rows for tag in row["tags"]} if words else {row["label"] for row in rows})
    split = Split.of("file", [(f"line {i}", *row.values()) for i, row in enumerate(rows)])
    found = []
    for chunk in (1, 7, 1000):
        monkeypatch.setattr("clm_kernels.finetune.encode.CHUNK", chunk)
        encoded = TASKS[task].encode(split, names, tokenizer(), 5, sort)
        number = {name: i for i, name in enumerate(names)}
        expected = directly(encoded.split.texts, encoded.split.labels, tokenizer(), 5, words, number)
        assert (encoded.dataset.to_list(), encoded.first_tokens, encoded.cut) == expected
        found.append(encoded.split.where[:])
    sizes = [sum(map(len, text)) for text in split.texts]  # sorted() keeps the order of equal ones
    order = sorted(range(50), key=lambda i: sizes[i], reverse=True) if sort else range(50)
    assert found == [[f"line {i}" for i in order]] * 3


def test_cut_texts_are_counted():
    encoded = TASKS["sequence"].encode(split_of(["my refund now", "parcel"], ["a", "b"]), ["a", "b"], tokenizer(), 4, sort=False)
    assert encoded.cut == 1
    assert [len(ids) for ids in encoded.dataset["input_ids"]] == [4, 3] == encoded.dataset["length"][:]


@pytest.mark.parametrize("task", ["sequence", "token"])
def test_a_tokenizer_that_does_not_cut_off_is_refused(task):
    """One whose special tokens alone are more, as a stranger's may be: the model would read beyond its positions."""
    made, described = tokenizer(), json.loads(tokenizer().backend_tokenizer.to_str())
    described["post_processor"]["single"] += [described["post_processor"]["single"][-1]] * 20
    made._tokenizer = Tokenizer.from_str(json.dumps(described))
    split = split_of([["my", "refund"]] if task == "token" else ["my refund"], [["O", "O"] if task == "token" else "a"])
    with pytest.raises(
        ValueError, match=r"^encode: the tokenizer must be one that cuts texts off at 9 tokens, got \d+ of one text$"
    ):
        TASKS[task].encode(split, None, made, 9, sort=False)


def test_sorting_keeps_examples_together():
    split = split_of(["a", "the invoice please", "my refund"], ["x", "y", "x"])
    encoded = TASKS["sequence"].encode(split, ["x", "y"], tokenizer(), 16, sort=True)
    assert encoded.split.where == ["line 2", "line 3", "line 1"]
    assert encoded.dataset["labels"][:] == [1, 0, 0]
    assert TASKS["sequence"].score(encoded, ["x", "y"])(EvalPrediction(np.array([1, 0, 1]), None)) == pytest.approx(
        {"accuracy": 2 / 3, "macro_f1": 2 / 3}
    )


def test_without_spans_tokens_are_scored():
    split = split_of([["Anna", "lives"]], [["NOUN", "VERB"]])
    encoded = TASKS["token"].encode(split, ["NOUN", "VERB"], tokenizer(), 16, sort=False)
    labels = np.array(encoded.dataset["labels"])
    scores = TASKS["token"].score(encoded, ["NOUN", "VERB"])(EvalPrediction(labels * 0, labels))
    assert scores == pytest.approx({"accuracy": 1 / 2, "macro_f1": 1 / 3})
    assert TASKS["token"].best_by(["NOUN", "VERB"]) == "accuracy"
    assert TASKS["token"].best_by(TAGS) == "f1"


def test_another_score_can_choose():
    assert TASKS["token"].best_by(TAGS, "accuracy") == "accuracy"
    assert TASKS["sequence"].best_by(["a", "b"], "macro_f1") == "macro_f1"
    for task, labels, score in (("sequence", ["a", "b"], "f1"), ("token", TAGS, "macro_f1"), ("token", ["NOUN", "VERB"], "f1")):
        with pytest.raises(ValueError, match=f"best_by must be auto or a score of this task: .*, got '{score}'"):
            TASKS[task].best_by(labels, score)


@pytest.mark.parametrize(("family", "limit"), [("bert", 32), ("roberta", 30), ("distilbert", 32), ("gpt2", 32), ("llama", 32)])
def test_no_text_is_longer_than_the_model_can_take(family, limit):
    model = build(family).eval()
    assert isinstance(model.config, (RobertaConfig, GPT2Config)) or limit == 32
    found = longest(Loaded(model, tokenizer(), [], []), 1000)
    assert found == limit
    with torch.no_grad():
        ids = torch.full((1, found), 5)
        model(input_ids=ids, attention_mask=torch.ones_like(ids))


def test_the_tokenizers_limit_holds_too():
    assert longest(Loaded(build("bert"), tokenizer(20), [], []), 1000) == 20
    assert longest(Loaded(build("bert"), tokenizer(20), [], []), 10) == 10
