"""Which texts are about none of the labels: those that lie far from every label's training texts.

The score of a text is the cosine between what the head reads of it and the mean of the label that is nearest
(J. Snell, K. Swersky, R. Zemel: Prototypical Networks for Few-shot Learning, 2017, with cosines). ``benchmarks/scope.py`` holds it
against the softmax, logits, energy, Mahalanobis' distance and nearest neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import require
from ...models.pooled_head import pool
from ...models.structure import base_model
from ...strangers import inside, parse_json
from ...tensors import read_tensors, write_tensors
from ..artifacts import SCOPE

if TYPE_CHECKING:
    from torch import nn

FORMAT = "clm_kernels.scope/1"
RECALL = 0.95  # part of the validation texts, all of which are in scope, that stays in scope
TEXTS = 2000  # of the training data, at most, that the means are of: one forward pass each


@dataclass(frozen=True)
class Scope:
    """Where a classifier's texts lie, and from where on one is about something else.

    Attributes:
        means: of each label's training texts ``(labels, size)``, of length 1.
        threshold: below it, a text is out of scope.
        rows: how many validation texts the threshold is of.
        kept: which part of them lies at or above it.
    """

    means: Tensor
    threshold: float
    rows: int
    kept: float

    @classmethod
    def fit(cls, features: Tensor, numbers: Tensor, validation: Tensor, labels: int) -> Scope:
        """Of the features ``(n, size)`` of training texts with their labels' numbers ``(n,)``, and of validation texts.

        A label without a training text is near to nothing.
        """
        means = torch.zeros(labels, features.shape[1]).index_add_(0, numbers, F.normalize(features, dim=-1))
        means = F.normalize(means, dim=-1)
        scores = _nearness(validation, means)
        threshold = float(np.quantile(scores.numpy(), 1 - RECALL, method="lower"))
        return cls(means, threshold, len(scores), float((scores >= threshold).float().mean()))

    def scores(self, features: Tensor) -> Tensor:
        """The cosine with the nearest mean, ``(n,)``."""
        return _nearness(features, self.means)

    def told(self) -> dict[str, Any]:
        """What a report says of it."""
        return {"threshold": self.threshold, "rows": self.rows, "kept": self.kept}

    def save(self, folder: Path) -> None:
        """Writes `SCOPE` into a folder."""
        told = {"format": FORMAT, "threshold": repr(self.threshold), "rows": str(self.rows), "kept": repr(self.kept)}
        write_tensors(folder / SCOPE, {"means": self.means}, told)

    @classmethod
    def beside(cls, folder: Path, labels: int) -> Scope | None:
        """What a folder holds for a classifier of so many labels; None without a file.

        Raises:
            ValueError: for a file that is altered, or of another classifier.
        """
        path = folder / SCOPE
        if not path.is_file():
            return None
        tensors, told = read_tensors(path, "Classifier.load", FORMAT)
        with inside("Classifier.load", path):
            means = tensors.get("means", torch.empty(0))
            ours = means.dim() == 2 and len(means) == labels and means.dtype == torch.float32
            require(ours, "Scope", "means", f"of {labels} labels, as the classifier's", "others")
            threshold, rows, kept = (parse_json(told.get(name, "null"), "Scope", name) for name in ("threshold", "rows", "kept"))
            sound = type(threshold) is float and -2 < threshold < 2 and type(rows) is int and rows > 0 and type(kept) is float
            require(sound and 0 <= kept <= 1, "Scope", "threshold, rows and kept", "numbers that can be", "others")
            return cls(means, threshold, rows, kept)


def _nearness(features: Tensor, means: Tensor) -> Tensor:
    return (F.normalize(features.float().cpu(), dim=-1) @ means.T).amax(-1)


@contextmanager
def kept_features(model: nn.Module, wanted: bool = True) -> Iterator[list[Tensor]]:
    """Keeps what the head reads of each text, of every batch that the model is called with by keyword: ``(batch, size)`` each.

    Where the head reads one token's vector as it stands in the last hidden states, it is the mean over the text's tokens. Nothing is
    kept unless it is `wanted`.
    """
    hidden: list[Tensor] = []
    features: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        hidden.append(output[0])

    def pooled(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        states, mask = hidden.pop(), kwargs.get("attention_mask")
        hidden.clear()  # what a replay has run within, for texts of which nothing was kept
        whole = mask is None or mask.shape == states.shape[:2]  # Funnel's layers leave tokens out, but never the first
        vectors = pool(states, mask, "mean") if whole else states[:, 0]
        features.append(vectors.detach().float().cpu())

    hooks = []
    if wanted:
        hooks = [base_model(model).register_forward_hook(keep), model.register_forward_hook(pooled, with_kwargs=True)]
    try:
        yield features
    finally:
        for hook in hooks:
            hook.remove()


def drawn(labels: Sequence[int], most: int = TEXTS) -> list[int]:
    """Which training texts the means are of: all, or of each label as many, drawn at random and always the same."""
    order = np.random.default_rng(0).permutation(len(labels)).tolist()
    each = max(1, most // (1 + max(labels)))
    taken: dict[int, int] = {}
    found = []
    for i in order:
        taken[labels[i]] = taken.get(labels[i], 0) + 1
        if len(labels) <= most or taken[labels[i]] <= each:
            found.append(i)
    return sorted(found)
