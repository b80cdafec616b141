"""One temperature, the calibration error, and what is kept of the predictions above a probability."""

import json
from itertools import pairwise

import numpy as np
import pytest

from clm_kernels.finetune.judging.calibration import (
    Calibration,
    Kept,
    calibration_error,
    fitted_temperature,
    rejection_table,
    reliability,
    softmax,
)


def drawn(temperature, rows=4000, labels=5, seed=0):
    """Logits whose softmax at this temperature is the true probability of each label, and labels drawn by it."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (rows, labels))
    probabilities = softmax(logits, temperature)
    return logits, (probabilities.cumsum(1) < rng.random((rows, 1))).sum(1)


def loss(logits, gold, temperature):
    return -np.log(softmax(logits, temperature)[np.arange(len(gold)), gold]).mean()


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_the_temperature_that_made_the_labels_is_found(temperature):
    assert fitted_temperature(*drawn(temperature)) == pytest.approx(temperature, rel=0.06)


def test_it_is_where_the_loss_is_least():
    logits, gold = drawn(0.7)
    found = fitted_temperature(logits, gold)
    assert loss(logits, gold, found) < min(loss(logits, gold, found * 0.97), loss(logits, gold, found * 1.03))


def test_it_does_not_depend_on_what_is_added_to_all_logits_of_a_row():
    logits, gold = drawn(1.5, rows=200)
    shift = np.random.default_rng(1).normal(0, 100, (200, 1))
    assert fitted_temperature(logits + shift, gold) == pytest.approx(fitted_temperature(logits, gold), rel=1e-6)


def test_where_every_row_is_right_it_stays_above_zero_and_no_label_is_certain():
    logits = np.eye(3)[np.arange(30) % 3] * 4
    found = fitted_temperature(logits, np.arange(30) % 3)
    assert 0.1 < found < 10 and softmax(logits, found).max() < 0.999


@pytest.mark.parametrize("logits", [np.zeros((0, 3)), np.zeros((4, 3)), np.full((4, 3), 1e4)])
def test_it_is_a_number_whatever_comes(logits):
    found = fitted_temperature(logits, np.zeros(len(logits), int))
    assert 0.01 <= found <= 100


def test_large_logits_have_probabilities():
    assert softmax(np.array([[2000.0, 1000.0, -3000.0]])).tolist() == [[1, 0, 0]]


def test_the_error_of_bins_by_hand():
    probability, right = np.array([0.95, 0.95, 0.55, 0.55]), np.array([1, 0, 1, 1])
    bins = reliability(probability, right, bins=10)
    assert [(each.rows, each.accuracy) for each in bins if each.rows] == [(2, 1.0), (2, 0.5)]
    assert calibration_error(bins) == pytest.approx((2 * 0.45 + 2 * 0.45) / 4)
    assert sum(each.rows for each in bins) == 4 and len(bins) == 10


def test_the_edges_belong_to_a_bin():
    bins = reliability(np.array([0.0, 0.2, 0.2000001, 1.0]), np.ones(4), bins=5)
    assert [each.rows for each in bins] == [2, 1, 0, 0, 1]


def test_the_bins_are_those_of_scikit_learn():
    calibration = pytest.importorskip("sklearn.calibration", reason="scikit-learn is not installed")
    rng = np.random.default_rng(3)
    probability = rng.random(500)
    right = rng.random(500) < probability
    accuracy, mean = calibration.calibration_curve(right, probability, n_bins=15)
    ours = [each for each in reliability(probability, right) if each.rows]
    np.testing.assert_allclose([each.accuracy for each in ours], accuracy)
    np.testing.assert_allclose([each.probability for each in ours], mean)


def test_no_predictions_have_no_error():
    assert calibration_error(reliability(np.zeros(0), np.zeros(0))) == 0


def test_the_right_temperature_halves_the_error():
    logits, gold = drawn(0.3)

    def error(temperature):
        probabilities = softmax(logits, temperature)
        return calibration_error(reliability(probabilities.max(1), probabilities.argmax(1) == gold))

    assert error(fitted_temperature(logits, gold)) < 0.2 * error(1.0)


# Rejecting


def test_what_is_kept_is_counted_by_hand():
    table = rejection_table(np.array([0.9, 0.5, 0.5, 0.7]), np.array([True, False, True, False]))
    assert [(kept.rows, kept.right) for kept in table] == [(4, 2), (2, 1), (1, 1)]
    for kept, probability in zip(table, (0.5, 0.7, 0.9), strict=True):
        assert probability - 2e-6 < kept.threshold < probability


def test_a_table_of_many_is_small_and_counts_what_its_thresholds_keep():
    rng = np.random.default_rng(4)
    probability = rng.random(5000).astype(np.float32)
    right = rng.random(5000) < probability
    table = rejection_table(probability, right)
    assert 90 < len(table) <= 100
    assert all(a.threshold <= b.threshold and a.rows > b.rows for a, b in pairwise(table))
    for kept in table:
        above = probability >= kept.threshold
        assert abs(int(above.sum()) - kept.rows) <= 1 and abs(int(right[above].sum()) - kept.right) <= 1


def test_the_threshold_keeps_as_many_as_the_precision_allows():
    calibration = Calibration(1.0, 10, (Kept(0.1, 10, 7), Kept(0.5, 6, 5), Kept(0.7, 5, 4), Kept(0.8, 4, 4)))
    assert calibration.threshold(0.7).threshold == 0.1
    assert calibration.threshold(0.8).rows == 6  # 5 of 6, though 4 of 5 would do
    assert calibration.threshold(0.95).threshold == calibration.threshold(1.0).threshold == 0.8


@pytest.mark.parametrize("precision", [0, -1, 1.1, float("nan")])
def test_a_precision_that_is_none_is_refused(precision):
    with pytest.raises(ValueError, match=r"^predict: reject must be a precision above 0 and up to 1, got"):
        Calibration(1.0, 1, (Kept(0.1, 1, 1),)).threshold(precision)


def test_a_precision_out_of_reach_is_refused_with_the_best_one():
    with pytest.raises(ValueError, match=r"^predict: reject must be at most 0.7500, .*--reject 0.75 .* got 0.9"):
        Calibration(1.0, 4, (Kept(0.1, 4, 3),)).threshold(0.9)


def test_without_a_table_nothing_can_be_rejected():
    with pytest.raises(ValueError, match=r"^predict: reject must be left out for a classifier of which no validation is known"):
        Calibration().threshold(0.9)


# Kept as JSON


def test_it_comes_back_from_json():
    logits, gold = drawn(0.4, rows=300)
    made = Calibration.fit(logits, gold)
    assert made.rows == 300 and made.table and made.temperature < 1
    assert Calibration.from_dict(json.loads(json.dumps(made.to_dict()))) == made


def test_of_tags_only_the_temperature_is_kept():
    logits, gold = drawn(0.4, rows=300)
    made = Calibration.fit(logits, gold, rejects=False)
    assert made == Calibration(fitted_temperature(logits, gold))


def test_none_changes_nothing():
    assert Calibration.from_dict(None) == Calibration() and Calibration().temperature == 1


GOOD = {"temperature": 0.5, "rows": 2, "table": [[0.4, 2, 1]]}


@pytest.mark.parametrize(
    "described",
    [
        "x", [], {}, GOOD | {"temperature": 0}, GOOD | {"temperature": float("nan")}, GOOD | {"temperature": "hot"},
        GOOD | {"rows": None}, GOOD | {"rows": float("inf")}, GOOD | {"table": [[0.4, 2]]}, GOOD | {"table": [[0.4, 0, 0]]},
        GOOD | {"table": [[0.4, 3, 1]]}, GOOD | {"table": [[0.4, 2, 3]]}, GOOD | {"table": [[float("nan"), 2, 1]]},
    ],
)  # fmt: skip
def test_what_cannot_be_right_is_refused_in_one_line(described):
    Calibration.from_dict(GOOD)
    with pytest.raises(ValueError, match=r"^Classifier.load: .* must be .*, got "):
        Calibration.from_dict(described)
