"""Labels that are likely wrong."""

import numpy as np

from clm_kernels.finetune.judging.mislabels import likely_mislabels


def test_by_hand():
    """Of label 0 the mean probability is 0.6, of label 1 it is 0.55: the fourth row has enough for 0."""
    gold = np.array([0, 0, 1, 1])
    probabilities = np.array([[0.9, 0.1], [0.3, 0.7], [0.1, 0.9], [0.8, 0.2]])
    found = likely_mislabels(gold, probabilities)
    assert [(line.i, line.given, line.suggested) for line in found] == [(3, 1, 0), (1, 0, 1)]
    np.testing.assert_allclose([line.margin for line in found], [0.6, 0.4])


def test_a_label_that_is_given_unsurely_everywhere_needs_less():
    """Who is taken for 1 by 0.45 is confident of it, where 1 has 0.4 on average; the same for 0 is not."""
    gold = np.array([0, 0, 0, 1, 1, 2])
    probabilities = np.array(
        [[0.9, 0.05, 0.05], [0.9, 0.05, 0.05], [0.4, 0.45, 0.15], [0.3, 0.4, 0.3], [0.5, 0.4, 0.1], [0.1, 0.1, 0.8]]
    )
    assert [(line.i, line.suggested) for line in likely_mislabels(gold, probabilities)] == [(2, 1)]


def test_the_wrong_ones_are_found_among_many():
    rng = np.random.default_rng(0)
    true = rng.integers(0, 5, 500)
    logits = rng.normal(size=(500, 5))
    logits[np.arange(500), true] += 5
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    given, wrong = true.copy(), rng.choice(500, 25, replace=False)
    given[wrong] = (true[wrong] + 1) % 5
    found = [line.i for line in likely_mislabels(given, probabilities)]
    assert len(set(found[:25]) & set(wrong.tolist())) >= 20


def test_a_label_that_is_never_given_is_never_suggested():
    assert likely_mislabels(np.array([0, 0]), np.array([[0.1, 0.9], [0.2, 0.8]])) == []
