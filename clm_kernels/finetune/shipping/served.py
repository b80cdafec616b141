"""`Served`: a fine-tuned model with all that it needs to read texts; what is shipped is made of it and compared with it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DataCollatorWithPadding, PreTrainedModel, PreTrainedTokenizerBase

from ..encode import Encoded
from ..judging.thresholds import sigmoid
from ..split import Split
from ..tasks import Task

DRAWN = 16  # texts
BATCH = 32

Batch = Any  # transformers' BatchEncoding of padded tensors


@dataclass(frozen=True)
class Served:
    """A classifier as it stands in memory.

    Attributes:
        labels: in the order of the model's outputs.
        max_length: tokens after which a text is cut off.
        template: words around every text.
        temperature: of its probabilities.
        thresholds: probability of each label from which on a text gets it; empty where it gets the best one.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    task: Task
    labels: list[str]
    max_length: int
    template: str
    temperature: float
    thresholds: tuple[float, ...] = ()

    def encoded(self, split: Split) -> Encoded:
        """Token ids of texts, in their order."""
        return self.task.encode(split, None, self.tokenizer, self.max_length, False, self.template)

    def drawn(self) -> Split:
        """Texts of tokens drawn at random, none of them a special one; the same every time."""
        draw, special = random.Random(0), set(self.tokenizer.all_special_ids)
        plain = [number for number in range(len(self.tokenizer)) if number not in special]
        texts = [self.tokenizer.decode(draw.choices(plain, k=1 + 3 * i)) for i in range(DRAWN)]
        return unlabelled([self.task.read_line(text) for text in texts])

    def batches(self, encoded: Encoded, size: int = BATCH) -> Iterator[Batch]:
        """Padded batches on the model's device."""
        collate: Any = DataCollatorWithPadding(self.tokenizer)
        for columns in encoded.dataset.remove_columns("length").iter(size):
            yield collate([dict(zip(columns, values)) for values in zip(*columns.values())]).to(self.model.device)

    def predicted(self, logits: Sequence[NDArray], encoded: Encoded) -> list[Any]:
        """The best label's number for each text, or for each word that was not cut off; with thresholds a set of numbers for each text."""
        if self.thresholds:
            found = sigmoid(np.stack(logits), self.temperature) >= np.array(self.thresholds)
            return [frozenset(np.flatnonzero(row).tolist()) for row in found]
        if encoded.first_tokens is None:
            return [int(row.argmax(-1)) for row in logits]
        words = (row.argmax(-1)[list(encoded.first_tokens[i].values())] for i, row in enumerate(logits))
        return [number for row in words for number in row.tolist()]


def unlabelled(texts: Sequence[Any]) -> Split:
    """Texts of which nothing else is known."""
    return Split("", list(texts), [None] * len(texts), [f"text {i + 1}" for i in range(len(texts))])


@torch.no_grad()
def logits_of(run: Callable[[Batch], Any], batches: Iterator[Batch]) -> list[NDArray]:
    """A row of logits for each text, or one for each of its tokens, without padding."""
    found: list[NDArray] = []
    for batch in batches:
        logits = torch.as_tensor(run(batch)).float().cpu().numpy()
        if logits.ndim == 2:
            found += list(logits)
        else:
            real = batch["attention_mask"].cpu().numpy().astype(bool)
            found += [row[mask] for row, mask in zip(logits, real, strict=True)]
    return found


def by_torch(model: Any) -> Callable[[Batch], torch.Tensor]:
    """A model of transformers as `logits_of` calls it."""
    return lambda batch: model(**batch).logits


def largest_difference(expected: Sequence[NDArray], found: Sequence[NDArray]) -> tuple[float, int]:
    """The largest difference of two logits, and which text has it; infinite where one is no number or shapes differ."""
    differences = [
        float(np.abs(a - b).max(initial=0)) if a.shape == b.shape else np.inf for a, b in zip(expected, found, strict=True)
    ]
    known = [np.inf if np.isnan(difference) else difference for difference in differences]
    worst = int(np.argmax(known))
    return known[worst], worst
