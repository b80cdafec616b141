"""Any number of labels for a text: from which probability on each is given, and how good that is.

A threshold per label that is best on validation is what Y. Yang, SIGIR 2001 ("A study on thresholding strategies for text
categorization") calls SCut; where a label has few texts, it fits these, and the threshold of all labels together is taken.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .calibration import COOLEST, HOTTEST, Calibration

FEW = 5  # validation texts of a label; with fewer it has no threshold of its own
HALF = 0.5


def sigmoid(logits: NDArray, temperature: float = 1.0) -> NDArray[np.float64]:
    """Probabilities of logits ``(n, labels)``, each label by itself."""
    return 0.5 + 0.5 * np.tanh(np.asarray(logits, np.float64) / (2 * temperature))


def calibrated(logits: NDArray, gold: NDArray) -> Calibration:
    """Temperature and thresholds of validation logits and right labels, both ``(n, labels)``; `gold` is bool."""
    temperature = fitted_temperature(logits, gold)
    return Calibration(temperature, len(gold), thresholds=best_thresholds(sigmoid(logits, temperature), gold))


def fitted_temperature(logits: NDArray, gold: NDArray) -> float:
    """As for one label a text, with the binary cross entropy of every label: convex in 1/T.

    One more row, the mean one, in which each label is as right as wrong, keeps T above zero.
    """
    logits = np.asarray(logits, np.float64)
    if not len(logits):
        return 1.0
    target = (logits * gold).sum() + logits.mean(0).sum() / 2
    low, high = np.log(1 / HOTTEST), np.log(1 / COOLEST)
    for _ in range(40):
        middle = (low + high) / 2
        expected = logits * sigmoid(logits, np.exp(-middle))
        falls = expected.sum() + expected.mean(0).sum() < target
        low, high = (middle, high) if falls else (low, middle)
    return float(np.clip(np.exp(-(low + high) / 2), COOLEST, HOTTEST))


def best_thresholds(probabilities: NDArray, gold: NDArray) -> tuple[float, ...]:
    """For each label, the threshold at which its F1 is best."""
    common = _best(probabilities.ravel(), gold.ravel())
    columns = zip(probabilities.T, gold.T, strict=True)
    return tuple(_best(shares, right) if right.sum() >= FEW else common for shares, right in columns)


def marked(logits: NDArray, calibration: Calibration) -> NDArray[np.bool_]:
    """Which labels each text gets, ``(n, labels)``."""
    return sigmoid(logits, calibration.temperature) >= np.array(calibration.thresholds)


def marked_scores(gold: NDArray, found: NDArray) -> dict[str, float]:
    """Micro F1, macro F1 over the labels that are gold or found anywhere, and the part of the texts whose labels are all right."""
    hits, either = (gold & found).sum(0), gold.sum(0) + found.sum(0)
    return {
        "micro_f1": f1(hits.sum(), either.sum()),
        "macro_f1": float(np.mean([f1(*pair) for pair in zip(hits, either) if pair[1]] or [0.0])),
        "exact_match": float((gold == found).all(1).mean()) if len(gold) else 0.0,
    }


def f1(hits: float, either: float) -> float:
    """Of how often gold and found agree, and how often there is either, counted together."""
    return float(2 * hits / either) if either else 0.0


def _best(shares: NDArray, right: NDArray) -> float:
    """The middle of the gap in which F1 is best; of equal ones the one that is nearest to a half."""
    if not right.any():
        return HALF
    order = np.argsort(-shares, kind="stable")
    falling, hits = shares[order], np.cumsum(right[order])
    following = np.append(falling[1:], 0.0)
    scores = np.where(following < falling, hits / (np.arange(1, len(hits) + 1) + hits[-1]), -1.0)
    middles = (falling + following) / 2
    best = np.flatnonzero(scores == scores.max())
    return float(middles[best[np.abs(middles[best] - HALF).argmin()]])
