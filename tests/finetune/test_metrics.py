"""Scores, held against seqeval and scikit-learn."""

import random
import warnings

import pytest

from clm_kernels.finetune.metrics import accuracy, are_spans, macro_f1, span_scores, spans


def tag_lists(seed, prefixes, count=6):
    draw = random.Random(seed)
    tags = ["O"] + [f"{prefix}-{kind}" for prefix in prefixes for kind in ("PER", "LOC", "per-son")]
    return [[draw.choice(tags) for _ in range(draw.randrange(10))] for _ in range(count)]


@pytest.mark.parametrize("prefixes", ["BI", "BIES"])
def test_spans_are_seqevals(prefixes):
    entities = pytest.importorskip("seqeval.metrics.sequence_labeling").get_entities
    for seed in range(200):
        for tags in tag_lists(seed, prefixes):
            assert spans(tags) == {(kind, start, end + 1) for kind, start, end in entities(tags)}, tags


def test_span_scores_are_seqevals():
    metrics = pytest.importorskip("seqeval.metrics")
    for seed in range(100):
        gold = tag_lists(seed, "BI")
        predicted = [[random.Random(seed).choice([tag, "O"]) for tag in tags] for tags in gold]
        ours = span_scores(gold, predicted)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about sentences without spans
            theirs = [getattr(metrics, f"{name}_score")(gold, predicted) for name in ("precision", "recall", "f1")]
        assert list(ours.values()) == pytest.approx(theirs)


def test_accuracy_and_macro_f1_are_sklearns():
    metrics = pytest.importorskip("sklearn.metrics")
    for seed in range(100):
        draw = random.Random(seed)
        gold = draw.choices("abcd", k=30)
        predicted = [draw.choice([label, *"abcde"]) for label in gold]
        assert accuracy(gold, predicted) == pytest.approx(metrics.accuracy_score(gold, predicted))
        assert macro_f1(gold, predicted) == pytest.approx(metrics.f1_score(gold, predicted, average="macro"))


def test_what_is_not_predicted_is_missed():
    assert accuracy(["a", "b"], ["a", None]) == 0.5
    assert macro_f1(["a", "b"], ["a", None]) == 0.5
    assert span_scores([["B-X", "I-X"]], [["B-X", "O"]]) == {"precision": 0.0, "recall": 0.0, "f1": 0.0}


def test_no_examples_score_zero():
    assert accuracy([], []) == macro_f1([], []) == span_scores([], [])["f1"] == 0.0


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        (["O", "B-X", "I-X"], True),
        (["B", "I", "O"], True),
        (["O"], False),
        (["NOUN", "VERB"], False),
        (["B-X", "NOUN"], False),
        (["B-"], False),
    ],
)
def test_tags_that_mark_spans(tags, expected):
    assert are_spans(tags) is expected
