"""Thresholds of labels and their temperature, against a search over all there are."""

from itertools import product

import numpy as np
import pytest

from clm_kernels.finetune.judging.calibration import Calibration
from clm_kernels.finetune.judging.several import Marks, bins_of_marks, doubtful_marks, swapped_labels, wrong_marks
from clm_kernels.finetune.judging.thresholds import FEW, best_thresholds, calibrated, f1, fitted_temperature, marked, sigmoid


def drawn(texts=200, labels=3, seed=0):
    """Logits that know something of the labels, and these."""
    draw = np.random.default_rng(seed)
    gold = draw.random((texts, labels)) < 0.3
    return 2 * gold - 1 + draw.normal(size=gold.shape), gold


def searched(shares, gold):
    """The best micro F1 at any thresholds: of all that there are between two texts of a label, together."""
    gaps = [np.concatenate([[2.0], np.unique(column)]) for column in shares.T]
    found = (shares >= np.array(thresholds) for thresholds in product(*gaps))
    return max(f1((gold & above).sum(), gold.sum() + above.sum()) for above in found)


@pytest.mark.parametrize("seed", range(3))
def test_together_they_are_the_best_for_micro_f1(seed):
    logits, gold = drawn(16, seed=seed)
    gold[:FEW] = True  # a label that is rarer has none of its own
    shares = sigmoid(logits).round(1)  # with equal ones among them
    above = shares >= np.array(thresholds := best_thresholds(shares, gold))
    assert f1((gold & above).sum(), gold.sum() + above.sum()) == pytest.approx(searched(shares, gold))
    assert not np.isclose(shares, thresholds, atol=1e-9).any()  # between two texts, not at one


def test_a_rare_label_takes_half_of_the_score():
    logits, gold = drawn()
    gold[:, 1], gold[: FEW - 1, 1] = False, True
    shares = sigmoid(logits)
    thresholds = best_thresholds(shares, gold)
    gold[FEW - 1, 1] = True
    of_its_own = best_thresholds(shares, gold)
    found = shares >= np.array(of_its_own)
    score = f1((gold & found).sum(), gold.sum() + found.sum())
    assert of_its_own[1] != thresholds[1] == pytest.approx(score / 2, abs=0.02)


def test_without_a_label_anywhere_it_is_a_half():
    assert best_thresholds(np.full((4, 2), 0.1), np.zeros((4, 2), bool)) == (0.5, 0.5)


def test_equal_probabilities_are_given_a_label_together():
    (threshold,) = best_thresholds(np.array([[0.9]] * 6 + [[0.2]] * 6), np.array([[1]] * 5 + [[0]] * 7, bool))
    assert threshold == pytest.approx(0.55)


def test_the_temperature_undoes_a_scale():
    draw = np.random.default_rng(3)
    logits = draw.normal(size=(4000, 3)) * 2
    gold = draw.random(logits.shape) < sigmoid(logits)
    assert fitted_temperature(logits, gold) == pytest.approx(1, abs=0.05)
    assert fitted_temperature(5 * logits, gold) == pytest.approx(5, rel=0.05)


def test_the_temperature_stays_above_zero_where_all_is_right():
    logits, gold = np.array([[4.0, -3.0], [-2.0, 4.0]] * 50), np.array([[1, 0], [0, 1]] * 50, bool)
    assert 0.1 < fitted_temperature(logits, gold) < 1
    assert marked(logits, calibrated(logits, gold)).tolist() == gold.tolist()


def test_it_is_kept_as_json_and_older_ones_have_none():
    kept = calibrated(*drawn())
    assert Calibration.from_dict(kept.to_dict()) == kept and len(kept.thresholds) == 3
    assert "thresholds" not in Calibration(2.0).to_dict() and Calibration.from_dict(Calibration(2.0).to_dict()).thresholds == ()
    with pytest.raises(ValueError, match="the calibration must be"):
        Calibration.from_dict(kept.to_dict() | {"thresholds": 0.5})


def test_the_surest_mistakes_come_first_and_pairs_are_counted():
    gold = np.array([[1, 0], [1, 0], [0, 1]], bool)
    found = np.array([[0, 1], [1, 0], [1, 1]], bool)
    shares = np.array([[0.3, 0.6], [0.9, 0.1], [0.8, 0.9]])
    judged = Marks(["a", "b"], None, gold, found, shares)
    assert wrong_marks(judged) == [(2, 0), (0, 0), (0, 1)]
    assert [tuple(pair) for pair in swapped_labels(judged, 9)] == [("a", "b", 1, 2)]


def test_doubtful_labels_are_those_that_were_turned_round():
    draw = np.random.default_rng(5)
    gold = draw.random((300, 2)) < 0.5
    shares = np.where(gold, 0.9, 0.1) + draw.normal(size=gold.shape) * 0.01
    gold[7, 1] ^= True
    (found,) = doubtful_marks(Marks(["a", "b"], None, gold, shares > 0.5, shares))
    assert found[:2] == (7, 1) and found[2] == pytest.approx(0.8, abs=0.1)


def test_bins_hold_every_pair():
    logits, gold = drawn()
    assert sum(each.rows for each in bins_of_marks(logits, gold, 1.0)) == gold.size
