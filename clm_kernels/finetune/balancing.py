"""`--balance`: rare labels that count as much as frequent ones, by a weight in the loss or by how often their texts are drawn."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import require
from .config import Training
from .encode import IGNORED, Encoded
from .tasks import Task

CHUNK = 1000  # rows that are read at a time


def check_balance(training: Training, task: Task) -> None:
    """Raises ValueError where a task cannot be balanced so."""
    asked = training.balance
    one = "none where a text may have several labels"
    require(asked == "none" or not task.several, "train", "balance", one, repr(asked))
    drawn = "weights or none for tags, as a sentence has words of several"
    require(asked != "sample" or not task.per_token, "train", "balance", drawn, repr(asked))


def label_weights(training: Training, train: Encoded, labels: int) -> Tensor | None:
    """By which the loss of each label is multiplied: one over how often it is there, and one on the mean over the training data."""
    if training.balance != "weights":
        return None
    counts = _counts(train, labels)
    return torch.from_numpy(_shares(counts) * counts.sum()).float()


def drawing_chances(training: Training, train: Encoded, labels: int) -> Tensor | None:
    """With what chance each row is drawn: every label as often as another, every window as its part of a text; ``(rows,)`` float64."""
    if training.balance != "sample":
        return None
    numbers = np.fromiter(train.dataset["labels"], np.int64, len(train.dataset))
    chances = _shares(_counts(train, labels))[numbers]
    return torch.from_numpy(chances if train.weights is None else chances * train.weights)


def _counts(train: Encoded, labels: int) -> NDArray[np.int64]:
    """How many texts, or words, have each label."""
    total = np.zeros(labels, np.int64)
    for columns in train.labelled.select_columns("labels").iter(CHUNK):
        numbers = np.concatenate([np.atleast_1d(label) for label in columns["labels"]])
        total += np.bincount(numbers[numbers != IGNORED], minlength=labels)
    return total


def _shares(counts: NDArray) -> NDArray[np.float64]:
    """Of one text or word of each label, so that the labels that are there have equal parts of 1; 0 for the others."""
    return (counts > 0) / np.maximum(1, counts) / np.count_nonzero(counts)
