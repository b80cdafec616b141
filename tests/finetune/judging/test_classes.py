"""Precision, recall and F1 of each class, and what is taken for what."""

import random

import numpy as np
import pytest

from clm_kernels.finetune.judging.classes import class_scores, confusion, most_confused, neighbourly, span_class_scores
from clm_kernels.finetune.metrics import macro_f1, span_scores

NAMES = ["a", "b", "c", "never"]
GOLD, PREDICTED = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, -1, 1])


def test_each_class_by_hand():
    a, b, c, never = class_scores(GOLD, PREDICTED, NAMES)
    assert (a.precision, a.recall, a.f1, a.support, a.predicted) == (1, 2 / 3, 0.8, 3, 2)
    assert (b.precision, b.recall, b.support, b.predicted) == (1 / 3, 1 / 2, 2, 3)
    assert tuple(c) == ("c", 0, 0, 0, 1, 0) and tuple(never) == ("never", 0, 0, 0, 0, 0)


def test_each_class_as_scikit_learn_has_it():
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    gold, predicted = np.random.default_rng(0).integers(0, 4, (2, 300))
    expected = np.transpose(metrics.precision_recall_fscore_support(gold, predicted, labels=range(4)))
    ours = class_scores(gold, predicted, NAMES)
    np.testing.assert_allclose([[s.precision, s.recall, s.f1, s.support] for s in ours], expected)
    np.testing.assert_array_equal(
        confusion(gold, predicted, 4)[:, :4], metrics.confusion_matrix(gold, predicted, labels=range(4))
    )
    names = [NAMES[i] for i in gold], [NAMES[i] for i in predicted]
    assert macro_f1(*names) == pytest.approx(np.mean([score.f1 for score in ours]))


def tagged(seed, count=40):
    draw = random.Random(seed)
    tags = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    return [[draw.choice(tags) for _ in range(draw.randrange(1, 9))] for _ in range(count)]


def test_each_type_of_span_as_seqeval_has_it():
    seqeval = pytest.importorskip("seqeval.metrics", reason="seqeval is not installed")
    gold = tagged(1)
    predicted = [[tag if random.Random(i).random() < 0.6 else "O" for i, tag in enumerate(row)] for row in gold]
    report = seqeval.classification_report(gold, predicted, output_dict=True, zero_division=0)
    found = {score.label: score for score in span_class_scores(gold, predicted)}
    assert found.keys() == {"PER", "LOC"}
    for kind, score in found.items():
        expected = report[kind]
        assert score.support == expected["support"]
        for ours, theirs in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
            assert getattr(score, ours) == pytest.approx(expected[theirs])


def test_the_types_together_are_the_micro_average():
    gold, predicted = tagged(2), [row[::-1] for row in tagged(2)]
    found = span_class_scores(gold, predicted)
    hits = sum(score.recall * score.support for score in found)
    assert hits / sum(score.support for score in found) == pytest.approx(span_scores(gold, predicted)["recall"])


def test_the_matrix_by_hand():
    assert confusion(GOLD, PREDICTED, 3).tolist() == [[2, 1, 0, 0], [0, 1, 0, 1], [0, 1, 0, 0]]


def test_the_most_confused_come_first_and_what_is_right_or_cut_off_does_not():
    matrix = np.array([[9, 2, 0, 0], [0, 1, 5, 7], [1, 1, 0, 0]])
    found = most_confused(matrix, ["a", "b", "c"], 3)
    assert [tuple(pair) for pair in found] == [("b", "c", 5, 13), ("a", "b", 2, 11), ("c", "a", 1, 2)]
    assert most_confused(np.diag([3, 4]), ["a", "b"], 3) == []


def test_labels_that_are_taken_for_each_other_stand_side_by_side():
    matrix = np.diag([9] * 7)
    matrix[0, 5], matrix[5, 3], matrix[4, 1] = 4, 2, 3
    order = neighbourly(matrix).tolist()
    assert sorted(order) == list(range(7))
    assert order[:3] in ([0, 5, 3], [3, 5, 0]) and set(order[3:5]) == {1, 4}
