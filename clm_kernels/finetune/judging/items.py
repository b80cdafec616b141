"""What was predicted of everything that is judged, in a few numbers each: enough for scores, mistakes and reliability."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..encode import IGNORED
from ..split import Split
from .logits import CUT_OFF, Judged

if TYPE_CHECKING:
    from torch import Tensor

    from ..encode import Encoded
    from ..tasks import Task


@dataclass(frozen=True)
class Items:
    """As `Judged`, without its logits.

    Attributes:
        predicted: numbers of the best labels; `CUT_OFF` for a word that was not seen.
        probability: calibrated, of these; 0 where there is none.
        of_gold: calibrated, of the right labels.
    """

    label_names: list[str]
    split: Split
    gold: NDArray[np.int64]
    predicted: NDArray[np.int64]
    probability: NDArray[np.float64]
    of_gold: NDArray[np.float64]
    text: NDArray[np.int64]
    per_word: bool

    @property
    def seen(self) -> NDArray[np.bool_]:
        return self.predicted != CUT_OFF

    @classmethod
    def of(cls, found: Judged, probabilities: NDArray) -> Items:
        """Of the probabilities of all labels."""
        shares = np.where(found.seen[:, None], probabilities, 0.0)
        of_gold = shares[np.arange(len(found.gold)), found.gold]
        return cls(
            found.label_names, found.split, found.gold, found.predicted, shares.max(-1), of_gold, found.text, found.per_word
        )  # fmt: skip

    @classmethod
    def gathered(cls, columns: Sequence[NDArray], targets: NDArray, encoded: Encoded, task: Task, names: Sequence[str]) -> Items:
        """Of what `condensed` has left of all batches of an encoded split, in its order.

        Args:
            columns: a row for each text, of what `condensed` gives.
            targets: the labels as the model was given them.
        """
        number, parts = {name: i for i, name in enumerate(names)}, []
        for i, label in enumerate(encoded.split.labels):
            own = [number[name] for name in task.label(label)]
            row = np.zeros((3, len(own)))
            row[0] = CUT_OFF
            if encoded.first_tokens is None:
                row[:, 0] = [column[i] for column in columns]
            else:
                row[:, list(encoded.first_tokens[i])] = [column[i][targets[i] != IGNORED] for column in columns]
            parts.append((np.array(own), row, np.full(len(own), i)))
        gold, rows, text = (np.concatenate(column, -1) for column in zip(*parts, strict=True))
        return cls(list(names), encoded.split, gold, rows[0].astype(np.int64), rows[1], rows[2], text, task.per_token)

    def surest_mistakes(self) -> Iterator[int]:
        """The surest first; those that were not seen last."""
        wrong = np.flatnonzero(self.predicted != self.gold)
        yield from wrong[np.argsort(-self.probability[wrong], kind="stable")].tolist()


def condensed(task: Task, temperature: float) -> Callable[[Any, Tensor], tuple[Tensor, Tensor, Tensor]]:
    """The Trainer's `preprocess_logits_for_metrics`, that keeps of a row of logits what `Items` has of it.

    That is what the task's `predicted` gives, the probability of it, and that of the right label: three numbers in place of
    one for each label.
    """

    def of_batch(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        best = task.predicted(logits)
        shares = torch.softmax(logits.float() / temperature, -1)
        numbers = torch.stack([best, targets.clamp(min=0)], -1)
        probability, of_gold = shares.gather(-1, numbers).unbind(-1)
        return best, probability, of_gold

    return of_batch
