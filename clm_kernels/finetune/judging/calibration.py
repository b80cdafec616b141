"""Probabilities that mean something: one temperature, how far off they are, and from which one on a label can be trusted.

C. Guo, G. Pleiss, Y. Sun, K. Weinberger: On Calibration of Modern Neural Networks, ICML 2017 (arXiv 1706.04599).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import floor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...errors import require

COOLEST, HOTTEST = 0.01, 100.0
BINS = 15  # as in the paper
ROWS = 100  # of the table by which labels are rejected


class Kept(NamedTuple):
    """What stays if labels below a probability are rejected: of how many rows, and how many of these are right."""

    threshold: float
    rows: int
    right: int

    @property
    def precision(self) -> float:
        return self.right / self.rows


class Bin(NamedTuple):
    """The predictions whose probability lies in ``(low, high]``: how many, their mean probability, and the part that is right."""

    low: float
    high: float
    rows: int
    probability: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """What validation tells about a classifier's probabilities.

    Attributes:
        temperature: by which logits are divided before the softmax.
        rows: how many validation texts the table is of.
        table: by rising threshold, from all of them to few; empty where labels cannot be rejected one by one, as tags.
        thresholds: probability of each label from which on a text gets it; empty where it gets the best one.
    """

    temperature: float = 1.0
    rows: int = 0
    table: tuple[Kept, ...] = ()
    thresholds: tuple[float, ...] = ()

    def threshold(self, precision: float) -> Kept:
        """The lowest threshold above which at least this part of the validation labels was right.

        Raises:
            ValueError: for a precision that is none, or that no threshold reaches; without a table.
        """
        require(0 < precision <= 1, "predict", "reject", "a precision above 0 and up to 1", precision)
        kept_with_it = (
            "left out for a classifier of which no validation is known: of tags, of several labels, or trained before it was kept"
        )
        require(bool(self.table), "predict", "reject", kept_with_it, precision)
        enough = [kept for kept in self.table if kept.precision >= precision]
        best = max(kept.precision for kept in self.table)
        reached = floor(100 * best) / 100 or best
        tried = f" (--reject {reached:g} asks for no more)" if best else ""
        require(bool(enough), "predict", "reject", f"at most {best:.4f}, the best precision on validation{tried}", precision)
        return max(enough, key=lambda kept: kept.rows)

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        told = asdict(self) | {"table": [list(kept) for kept in self.table], "thresholds": list(self.thresholds)}
        return told if self.thresholds else {name: value for name, value in told.items() if name != "thresholds"}

    @classmethod
    def from_dict(cls, described: Any) -> Calibration:
        """The inverse of `to_dict`; of None, one that changes nothing.

        Raises:
            ValueError: for anything else.
        """
        if described is None:
            return cls()
        try:
            table = tuple(Kept(float(at), int(rows), int(right)) for at, rows, right in described["table"])
            thresholds = tuple(map(float, described.get("thresholds", ())))
            made = cls(float(described["temperature"]), int(described["rows"]), table, thresholds)
        except (AttributeError, TypeError, KeyError, ValueError, OverflowError) as error:
            raise ValueError(f"Classifier.load: the calibration must be temperature, rows and table, got {error!r}") from error
        bounds = f"a number from {COOLEST} to {HOTTEST}"
        require(COOLEST <= made.temperature <= HOTTEST, "Classifier.load", "the temperature", bounds, made.temperature)
        sound = all(0 <= kept.threshold <= 1 and 0 <= kept.right <= kept.rows and 0 < kept.rows <= made.rows for kept in table)
        require(sound, "Classifier.load", "the table of precisions", "thresholds, rows and right ones that can be", "others")
        within = all(0 <= threshold <= 1 for threshold in thresholds)
        require(within, "Classifier.load", "the thresholds of labels", "from 0 to 1", "others")
        return made

    @classmethod
    def fit(cls, logits: NDArray, gold: NDArray, rejects: bool = True) -> Calibration:
        """Of validation logits ``(n, labels)`` and the numbers of the right labels ``(n,)``.

        Args:
            rejects: whether to keep the table.
        """
        temperature = fitted_temperature(logits, gold)
        probabilities = softmax(logits, temperature)
        table = rejection_table(probabilities.max(-1), probabilities.argmax(-1) == gold) if rejects else ()
        return cls(temperature, len(gold) if rejects else 0, table)


def softmax(logits: NDArray, temperature: float = 1.0) -> NDArray[np.float64]:
    """Probabilities of logits ``(n, labels)``."""
    scaled = np.asarray(logits, np.float64) / temperature
    exponents = np.exp(scaled - scaled.max(-1, keepdims=True))
    return exponents / exponents.sum(-1, keepdims=True)


def fitted_temperature(logits: NDArray, gold: NDArray) -> float:
    """The temperature at which the right labels are most likely: the mean of ``-log softmax(logits / T)[gold]`` is least.

    That is convex in 1/T, so its derivative is bisected. One more row, which any label might be right for, keeps T above
    zero where all rows are right; J. Platt's targets (1999) do the same for two labels.
    """
    logits = np.asarray(logits, np.float64)
    if not len(logits):
        return 1.0
    right = logits[np.arange(len(logits)), gold].sum() + logits.mean()
    low, high = np.log(1 / HOTTEST), np.log(1 / COOLEST)
    for _ in range(40):
        middle = (low + high) / 2
        expected = (softmax(logits, np.exp(-middle)) * logits).sum(-1)
        falls = expected.sum() + expected.mean() < right
        low, high = (middle, high) if falls else (low, middle)
    return float(np.clip(np.exp(-(low + high) / 2), COOLEST, HOTTEST))


def reliability(probability: NDArray, right: NDArray, bins: int = BINS) -> list[Bin]:
    """Predictions by their probability, in bins of equal width; empty ones have 0 for probability and accuracy."""
    edges = np.linspace(0, 1, bins + 1)
    number = np.clip(np.searchsorted(edges, probability, side="left") - 1, 0, bins - 1)
    count = np.bincount(number, minlength=bins)
    total = np.maximum(count, 1)
    mean = np.bincount(number, probability, bins) / total
    accuracy = np.bincount(number, right, bins) / total
    columns = (edges[:-1], edges[1:], count, mean, accuracy)
    return [Bin(*values) for values in zip(*(column.tolist() for column in columns), strict=True)]


def calibration_error(bins: list[Bin]) -> float:
    """Expected calibration error: the mean over the predictions of ``|accuracy - probability|`` of their bin."""
    rows = sum(each.rows for each in bins)
    return sum(each.rows * abs(each.accuracy - each.probability) for each in bins) / max(1, rows)


def rejection_table(probability: NDArray, right: NDArray, rows: int = ROWS) -> tuple[Kept, ...]:
    """What is kept at thresholds that are spread evenly over the predictions, and how much of it is right."""
    order = np.argsort(-probability, kind="stable")
    falling, hits = probability[order], np.cumsum(right[order])
    last = np.flatnonzero(np.append(falling[1:] < falling[:-1], True))  # of equal ones, all are kept or none
    chosen = last[np.unique(np.linspace(0, len(last) - 1, rows).round().astype(int))] if len(last) else last
    return tuple(Kept(below(float(falling[i])), int(i) + 1, int(hits[i])) for i in chosen[::-1])


def below(probability: float) -> float:
    """Rounded down to what a table need hold, so that the row itself stays above it."""
    return max(0.0, float(np.floor(probability * 1e6 - 0.5) / 1e6))
