"""Any number of labels for a text, judged: each label by itself, and all of a text's together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..split import Split
from .calibration import Bin, Calibration, calibration_error, reliability
from .classes import ClassScore, Confused, scored
from .mislabels import likely_mislabels
from .thresholds import f1, marked, sigmoid


def marks(labels: Sequence[Sequence[str]], label_names: Sequence[str]) -> NDArray[np.bool_]:
    """Which labels each text has, ``(texts, labels)``."""
    number, found = {name: i for i, name in enumerate(label_names)}, np.zeros((len(labels), len(label_names)), bool)
    for row, names in zip(found, labels, strict=True):
        row[[number[name] for name in names]] = True
    return found


def marked_classes(gold: NDArray, found: NDArray, label_names: Sequence[str]) -> list[ClassScore]:
    """A line for every label, of which labels texts have and get, both ``(texts, labels)``."""
    counts = (gold.sum(0), found.sum(0), (gold & found).sum(0))
    return [scored(*line) for line in zip(label_names, *(column.tolist() for column in counts), strict=True)]


def bins_of_marks(logits: NDArray, gold: NDArray, temperature: float) -> list[Bin]:
    """Every pair of a text and a label by its probability, and how often the text has the label."""
    return reliability(sigmoid(logits, temperature).ravel(), gold.ravel())


def error_of_marks(logits: NDArray, gold: NDArray, temperature: float) -> float:
    """The calibration error of these pairs."""
    return calibration_error(bins_of_marks(logits, gold, temperature))


@dataclass(frozen=True)
class Marks:
    """Texts that may have several labels, and what a classifier makes of them; arrays are ``(texts, labels)``.

    Attributes:
        gold, found: which labels each text has, and which it is given.
        probabilities: calibrated.
    """

    label_names: list[str]
    split: Split
    gold: NDArray[np.bool_]
    found: NDArray[np.bool_]
    probabilities: NDArray[np.float64]

    @classmethod
    def of(cls, names: Sequence[str], split: Split, gold: NDArray, logits: NDArray, calibration: Calibration) -> Marks:
        """Of logits, with the thresholds and the temperature of a calibration."""
        return cls(list(names), split, gold, marked(logits, calibration), sigmoid(logits, calibration.temperature))


def scorers_of_marks(marked: Marks) -> dict[str, Callable[[NDArray], float]]:
    """Micro F1, macro F1 and the exact match, as functions of how often each text is counted."""
    hits, right = marked.gold & marked.found, (marked.gold == marked.found).all(1)
    either = marked.gold.astype(int) + marked.found

    def macro(times: NDArray) -> float:
        counted = times @ either
        return float(np.mean(2 * (times @ hits)[counted > 0] / counted[counted > 0])) if counted.any() else 0.0

    return {
        "micro_f1": lambda times: f1(times @ hits.sum(1), times @ either.sum(1)),
        "macro_f1": macro,
        "exact_match": lambda times: float(times @ right / max(1.0, times.sum())),
    }


def swapped_labels(marked: Marks, most: int) -> list[Confused]:
    """In how many texts a label is lacking while another one is given in excess: the most frequent pairs."""
    lacking, excess = marked.gold & ~marked.found, marked.found & ~marked.gold
    counts, support = lacking.T.astype(int) @ excess, marked.gold.sum(0)
    order = np.argsort(-counts, axis=None, kind="stable")[:most]
    cells = zip(*(axis.tolist() for axis in np.unravel_index(order, counts.shape)), strict=True)
    names = marked.label_names
    return [Confused(names[g], names[p], int(counts[g, p]), int(support[g])) for g, p in cells if counts[g, p]]


def wrong_marks(marked: Marks) -> list[tuple[int, int]]:
    """Text and label of every mistake, the surest first."""
    surety = np.where(marked.found, marked.probabilities, 1 - marked.probabilities)
    texts, labels = np.nonzero(marked.found != marked.gold)
    order = np.argsort(-surety[texts, labels], kind="stable")
    return list(zip(texts[order].tolist(), labels[order].tolist(), strict=True))


def doubtful_marks(marked: Marks) -> list[tuple[int, int, float]]:
    """Text, label and margin where the labelling is likely wrong: `likely_mislabels` of each label by itself."""
    found = []
    for label, (gold, shares) in enumerate(zip(marked.gold.T, marked.probabilities.T, strict=True)):
        two = np.stack([1 - shares, shares], 1)
        found += [(line.i, label, line.margin) for line in likely_mislabels(gold.astype(int), two)]
    return sorted(found, key=lambda line: -line[2])
