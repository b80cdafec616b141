"""Labels that are likely wrong: where the classifier is confident of another one.

Confident learning in its simple form (C. Northcutt, L. Jiang, I. Chuang, JAIR 70, 2021, arXiv 1911.00068): confident of a
label is, who gives it at least the probability that it has on average where it is given. The probabilities have to be
those of texts that the classifier has not learnt.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Mislabel(NamedTuple):
    """Item `i`, what it is labelled, what is suggested, and how much more probable that is."""

    i: int
    given: int
    suggested: int
    margin: float


def likely_mislabels(gold: NDArray, probabilities: NDArray) -> list[Mislabel]:
    """Those whose most probable label, among the labels that the classifier is confident of there, is another one.

    Args:
        gold: numbers of the given labels ``(n,)``.
        probabilities: ``(n, labels)``.

    Returns:
        The largest margin between the suggested and the given label's probability first.
    """
    labels = probabilities.shape[1]
    count = np.bincount(gold, minlength=labels)
    given = probabilities[np.arange(len(gold)), gold]
    threshold = np.where(count > 0, np.bincount(gold, given, labels) / np.maximum(count, 1), np.inf)
    confident = np.where(probabilities >= threshold, probabilities, -1.0)
    suggested = confident.argmax(1)
    margin = confident.max(1) - given
    found = np.flatnonzero((confident.max(1) > 0) & (suggested != gold) & (margin > 0))
    ranked = found[np.argsort(-margin[found], kind="stable")]
    return [Mislabel(int(i), int(gold[i]), int(suggested[i]), float(margin[i])) for i in ranked]
