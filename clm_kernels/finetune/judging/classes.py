"""How each class fares: precision, recall, F1, support, and what it is taken for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..metrics import spans
from .logits import CUT_OFF


class ClassScore(NamedTuple):
    """One class: `support` counts the gold ones, `predicted` the predicted ones; a score without any to count is 0."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int
    predicted: int


class Confused(NamedTuple):
    """A pair of classes: how many of the gold one's `support` were taken for the predicted one."""

    gold: str
    predicted: str
    errors: int
    support: int


def class_scores(gold: NDArray, predicted: NDArray, label_names: Sequence[str]) -> list[ClassScore]:
    """A line for every label, of label numbers; what was cut off counts as missed."""
    size = len(label_names)
    support, found = (np.bincount(numbers[numbers != CUT_OFF], minlength=size) for numbers in (gold, predicted))
    hits = np.bincount(gold[gold == predicted], minlength=size)
    return [scored(*line) for line in zip(label_names, support.tolist(), found.tolist(), hits.tolist(), strict=True)]


def span_class_scores(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> list[ClassScore]:
    """A line for every type of span, of tags; a span is right where its type and both ends are."""
    support: Counter[str] = Counter()
    found: Counter[str] = Counter()
    hits: Counter[str] = Counter()
    for sentence in zip(gold, predicted, strict=True):
        truth, guess = map(spans, sentence)
        for counter, counted in ((support, truth), (found, guess), (hits, truth & guess)):
            counter.update(kind for kind, *_ in counted)
    return [scored(kind, support[kind], found[kind], hits[kind]) for kind in sorted(support.keys() | found.keys())]


def scored(label: str, support: int, predicted: int, hits: int) -> ClassScore:
    shares = (hits / predicted if predicted else 0.0, hits / support if support else 0.0)
    return ClassScore(label, *shares, 2 * hits / (support + predicted) if support + predicted else 0.0, support, predicted)


def confusion(gold: NDArray, predicted: NDArray, labels: int) -> NDArray[np.int64]:
    """``(labels, labels + 1)``: how many of each gold label (row) were taken for each (column); the last was cut off."""
    columns = np.where(predicted == CUT_OFF, labels, predicted)
    return np.bincount(gold * (labels + 1) + columns, minlength=labels * (labels + 1)).reshape(labels, labels + 1)


def most_confused(matrix: NDArray, label_names: Sequence[str], most: int) -> list[Confused]:
    """The largest cells off the diagonal, of a square confusion matrix or one as `confusion` gives."""
    counts, support = matrix[:, : len(label_names)].copy(), matrix.sum(1)
    np.fill_diagonal(counts, 0)
    order = np.argsort(-counts, axis=None, kind="stable")[:most]
    cells = zip(*(axis.tolist() for axis in np.unravel_index(order, counts.shape)), strict=True)
    return [Confused(label_names[g], label_names[p], int(counts[g, p]), int(support[g])) for g, p in cells if counts[g, p]]


def neighbourly(matrix: NDArray) -> NDArray[np.int64]:
    """An order in which labels that are taken for each other stand side by side.

    Chains grow at both ends from the label with the most errors, by the one left that is confused with an end most; where
    there is none, the next chain begins. Labels without errors come last.
    """
    size = len(matrix)
    errors = (matrix[:, :size] + matrix[:, :size].T).astype(float)
    np.fill_diagonal(errors, 0)
    left, chains = np.ones(size, bool), []
    while left.any():
        chain = [int(np.where(left, errors.sum(1), -1.0).argmax())]
        left[chain] = False
        while (following := errors[[chain[0], chain[-1]]] * left).any():
            end, label = (int(i) for i in np.unravel_index(following.argmax(), following.shape))
            chain.insert(end * len(chain), label)
            left[label] = False
        chains += chain
    return np.array(chains, np.int64)
