"""Any number of labels for a text: from which probability on each is given, and how good that is."""

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
    """One for each label, by which the micro F1 of all together is best; each in the middle of a gap.

    F1 = 2 hits / (gold + found) is a fraction, so it is exact to maximise 2 hits - F1 (gold + found), label by label, until F1
    rises no more (W. Dinkelbach, Management Science 13, 1967). A label of `FEW` gets half of that F1, which is best for
    probabilities that hold (Z. Lipton, C. Elkan, B. Naryanaswamy 2014, arXiv 1402.1892).
    """
    if not gold.any():
        return (HALF,) * gold.shape[1]
    order = np.argsort(-probabilities, axis=0, kind="stable")
    above = np.vstack([np.zeros(gold.shape[1]), np.cumsum(np.take_along_axis(gold, order, 0), 0)])  # hits, of the first k texts
    falling = np.take_along_axis(probabilities, order, 0)
    upper, lower = np.vstack([np.ones(gold.shape[1]), falling]), np.vstack([falling, np.zeros(gold.shape[1])])
    texts, labels = np.arange(len(gold) + 1)[:, None], np.arange(gold.shape[1])
    best, score = np.zeros_like(labels), -1.0
    while (now := f1(above[best, labels].sum(), gold.sum() + best.sum())) > score:
        score = now
        best = np.where(lower < upper, 2 * above - score * texts, -np.inf).argmax(0)
    middles = (upper + lower)[best, labels] / 2
    return tuple(np.where(gold.sum(0) < FEW, score / 2, middles).tolist())


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
