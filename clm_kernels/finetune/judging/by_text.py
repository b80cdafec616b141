"""How the Trainer scores a split whose texts may be read in windows: their logits are pooled before anything is made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import EvalPrediction

from ..encode import IGNORED
from ..losses import mean_loss

if TYPE_CHECKING:
    from ..encode import Encoded
    from ..tasks.base import Score
    from ..windows import Windows


class ByText(NamedTuple):
    """What the Trainer is given.

    Attributes:
        encoded: what is scored.
        condense: makes of a batch's logits and labels what is kept of them: a tensor, or a tuple of some.
        score: of what was kept of all texts.
    """

    encoded: Encoded
    condense: Callable[[Tensor, Tensor], Any]
    score: Score

    @property
    def _pools(self) -> bool:
        """Whether texts have the mean of their windows' logits; of words what was made of them is put together."""
        windows = self.encoded.windows
        return windows is not None and not windows.per_word

    def preprocess(self, logits: Tensor, labels: Tensor) -> Any:
        """The Trainer's `preprocess_logits_for_metrics`."""
        return logits.float() if self._pools else self.condense(logits, labels)

    def compute(self, result: EvalPrediction) -> dict[str, float]:
        """The Trainer's `compute_metrics`; of pooled logits the loss too, in place of the windows' own."""
        scores = self.score(self.of_texts(result.predictions, result.label_ids))
        return scores | {"loss": float(mean_loss(*self._pooled(result)))} if self._pools else scores

    def of_texts(self, predictions: Any, labels: Any) -> EvalPrediction:
        """What `condense` keeps of each text, and its labels, of what the Trainer has of each row."""
        windows = self.encoded.windows
        if windows is None:
            return EvalPrediction(predictions, labels)
        if not self._pools:
            seen = [row != IGNORED for row in labels]
            columns = predictions if isinstance(predictions, tuple) else (predictions,)
            kept: Any = [_together(windows, column, seen) for column in (*columns, labels)]
            return EvalPrediction(tuple(kept[:-1]) if isinstance(predictions, tuple) else kept[0], kept[-1])
        logits, targets = self._pooled(EvalPrediction(predictions, labels))
        found = self.condense(logits, targets)
        arrays: Any = tuple(each.numpy() for each in found) if isinstance(found, tuple) else found.numpy()
        return EvalPrediction(arrays, targets.numpy())

    def _pooled(self, result: EvalPrediction) -> tuple[Tensor, Tensor]:
        assert self.encoded.windows is not None
        rows = torch.from_numpy(np.stack(list(self.encoded.pooled(result.predictions))))
        return rows, torch.from_numpy(result.label_ids[self.encoded.windows.firsts])


def _together(windows: Windows, column: NDArray, seen: Sequence[NDArray]) -> list[NDArray]:
    """Of each text what the column has at its words."""
    return [np.concatenate(own) for own in windows.grouped(row[words] for row, words in zip(column, seen, strict=True))]
