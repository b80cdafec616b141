"""What a model gives for labelled texts: a row of logits for every text, or for every word."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..split import Split

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from ..encode import Encoded
    from ..tasks import Task

CUT_OFF = -1


@dataclass(frozen=True)
class Judged:
    """Everything that is judged: texts, or the words of all texts one after another.

    Attributes:
        label_names: in the order of the logits' columns.
        split: the texts, in the order that they were encoded in.
        gold: numbers of the right labels.
        logits: a row each; zeros for a word that was cut off.
        text: which text each belongs to.
        seen: which were not cut off.
        per_word: whether they are words.
    """

    label_names: list[str]
    split: Split
    gold: NDArray[np.int64]
    logits: NDArray[np.float32]
    text: NDArray[np.int64]
    seen: NDArray[np.bool_]
    per_word: bool

    @property
    def predicted(self) -> NDArray[np.int64]:
        """Numbers of the best labels; `CUT_OFF` for a word that has none."""
        return np.where(self.seen, self.logits.argmax(-1), CUT_OFF)


def judged(
    model: nn.Module, encoded: Encoded, task: Task, tokenizer: PreTrainedTokenizerBase, label_names: Sequence[str],
    batch_size: int = 64,
) -> Judged:  # fmt: skip
    """Runs the model, in evaluation mode and in its own dtype, over a labelled split."""
    number = {name: i for i, name in enumerate(label_names)}
    split, parts = encoded.split, []
    for i, row in enumerate(text_logits(model, encoded, tokenizer, batch_size)):
        own = [number[name] for name in task.label(split.labels[i])]
        kept = np.ones(len(own), bool)
        values = np.zeros((len(own), len(label_names)), np.float32)
        if encoded.first_tokens is None:
            values[0] = row
        else:
            first = encoded.first_tokens[i]
            kept[:] = [word in first for word in range(len(own))]
            values[list(first)] = row[list(first.values())]
        parts.append((np.array(own), values, np.full(len(own), i), kept))
    gold, logits, text, seen = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return Judged(list(label_names), split, gold, logits, text, seen, task.per_token)


def all_logits(model: nn.Module, encoded: Encoded, tokenizer: PreTrainedTokenizerBase, batch_size: int = 64) -> NDArray:
    """``(texts, labels)``, of a model that gives each text one row."""
    return np.stack(list(text_logits(model, encoded, tokenizer, batch_size)))


def text_logits(model: nn.Module, encoded: Encoded, tokenizer: PreTrainedTokenizerBase, batch_size: int) -> Iterable[NDArray]:
    """Of each text, in evaluation mode; of one in windows the mean over them."""
    return encoded.pooled(logits_of(model, encoded.dataset, tokenizer, batch_size))


def of_texts(encoded: Encoded, rows: Tensor) -> Tensor:
    """What a model has given for the dataset's rows, ``(rows, size)``, as ``(texts, size)``."""
    return rows if encoded.windows is None else torch.from_numpy(np.stack(list(encoded.pooled(rows.float().cpu().numpy()))))


@torch.no_grad()
def logits_of(model: nn.Module, dataset: Dataset, tokenizer: PreTrainedTokenizerBase, batch_size: int) -> Iterator[NDArray]:
    """Of each row of a dataset, in evaluation mode; those of like length run together, as `longest_first` has them."""
    from transformers import DataCollatorWithPadding

    order = longest_first(dataset)
    collate, device = DataCollatorWithPadding(tokenizer), next(model.parameters()).device
    dataset = dataset.remove_columns([name for name in ("length", "labels") if name in dataset.column_names])
    found: list[Any] = [None] * len(dataset)
    trained = model.training
    model.eval()
    try:
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batch: Any = collate(dataset[chosen])
            logits: Tensor = model(**batch.to(device)).logits
            for i, row in zip(chosen, logits.float().cpu().numpy(), strict=True):
                found[i] = row
    finally:
        model.train(trained)
    yield from found


def longest_first(dataset: Dataset) -> list[int]:
    """Numbers of encoded texts by their length, so that batches hold little padding; those of one length stay in their order."""
    return np.argsort([-len(ids) for ids in dataset["input_ids"]], kind="stable").tolist()


def given_order(dataset: Dataset, batches: Sequence[Tensor]) -> Tensor:
    """What was kept of the batches of `logits_of`, ``(rows, size)`` in the dataset's order."""
    ran = torch.cat(list(batches))
    rows = torch.empty_like(ran)
    rows[longest_first(dataset)] = ran
    return rows
