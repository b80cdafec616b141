"""What is made of a model's logits: the best labels by calibrated probabilities, and no label where it cannot be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...errors import require
from ..tasks.base import Prediction
from .calibration import Calibration, Kept
from .thresholds import sigmoid

if TYPE_CHECKING:
    from ..encode import Encoded
    from ..tasks import Task
    from .scope import Scope


class _Ranked(NamedTuple):
    text: Any
    label: Any
    probability: Any
    best: list[tuple[str, float]]
    out_of_scope: bool | None = None


class Ranked(_Ranked):
    """A `Prediction` that knows the next best labels too; `best` has each with its probability, the best one first.

    `out_of_scope`: whether the text is about none of the labels; None where nobody asked.
    """

    truncated: bool = False


Predicted = Prediction | Ranked


@dataclass(frozen=True)
class Ranking:
    """How predictions are made of logits.

    Attributes:
        temperature: by which logits are divided before the softmax.
        top: how many labels a prediction has.
        kept: what is not rejected; None rejects nothing.
        scope: by which texts are out of scope; None marks none.
        thresholds: of each label, where a text gets all that reach theirs.
    """

    temperature: float = 1.0
    top: int = 1
    kept: Kept | None = None
    scope: Scope | None = None
    thresholds: tuple[float, ...] = ()

    @classmethod
    def of(cls, calibration: Calibration, task: Task, labels: int, top: int, reject: float | None) -> Ranking:
        """What `Classifier.predict` is asked for.

        Raises:
            ValueError: for what this classifier cannot do.
        """
        whole = type(top) is int and 1 <= top <= labels
        require(whole, "predict", "top", f"a whole number from 1 to {labels}, the number of labels", repr(top))
        for name, asked in (("top", top > 1 and top), ("reject", reject is not None and reject)):
            alone = "left out for tags, which stand or fall with their neighbours'"
            require(not (task.per_token and asked), "predict", name, alone, asked)
            own = "left out where a text may have several labels, each with a threshold of its own"
            require(not (task.several and asked), "predict", name, own, asked)
        kept = None if reject is None else calibration.threshold(reject)
        return cls(calibration.temperature, top, kept, thresholds=calibration.thresholds if task.several else ())

    def probabilities(self, logits: Tensor) -> Tensor:
        """Of all labels, in float32."""
        shares = logits.float() / self.temperature
        return shares.sigmoid() if self.thresholds else shares.softmax(-1)

    def best(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities and numbers of the best labels, the best first, on the CPU; of one alone without a last dimension.

        With thresholds: probabilities of all labels, and which of them reach theirs.
        """
        logits = logits.float()
        if self.thresholds:
            shares = sigmoid(logits.cpu().numpy(), self.temperature)
            return torch.from_numpy(shares), torch.from_numpy(shares >= np.array(self.thresholds))
        probabilities = self.probabilities(logits)
        numbers = logits.topk(self.top, -1).indices if self.top > 1 else logits.argmax(-1, keepdim=True)
        found = probabilities.gather(-1, numbers)
        return (found.cpu(), numbers.cpu()) if self.top > 1 else (found[..., 0].cpu(), numbers[..., 0].cpu())

    def decode(
        self, task: Task, encoded: Encoded, i: int, numbers: Tensor, probabilities: Tensor, label_names: Sequence[str],
        outside: bool | None = None,
    ) -> Predicted:  # fmt: skip
        """What is predicted of text i of a split; `outside`: whether it is out of scope, where that is asked."""
        made: Any = self._made(task, encoded, i, numbers, probabilities, label_names, outside)
        made.truncated = bool(encoded.cuts[i])
        return made

    def _made(
        self, task: Task, encoded: Encoded, i: int, numbers: Tensor, probabilities: Tensor, label_names: Sequence[str],
        outside: bool | None,
    ) -> Predicted:  # fmt: skip
        first = (numbers[0], probabilities[0]) if self.top > 1 else (numbers, probabilities)
        prediction: Any = task.decode(encoded, i, *first, label_names)
        if self.kept is not None and prediction.probability < self.kept.threshold:
            prediction = prediction._replace(label=None)
        if self.top == 1 and outside is None:
            return prediction
        names = [label_names[number] for number in numbers.reshape(-1).tolist()]
        best = list(zip(names, probabilities.reshape(-1).tolist(), strict=True))
        label = None if outside else prediction.label
        return Ranked(prediction.text, label, prediction.probability, best, outside)
