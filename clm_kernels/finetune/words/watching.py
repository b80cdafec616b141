"""What each token of a batch holds of the gradient, seen where the layers choose their active tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...handles import Restorable
from ...patching.active import ActiveTokens


class Watch(Restorable):
    """Watches every batch that runs through a patched model until `restore`; gradients are the same bits with and without it.

    Attributes:
        batches: those that have come, whose tensors stay on the device so that no step waits for them.
    """

    def __init__(self, model: nn.Module, active: ActiveTokens):
        self.batches: list[Batch] = []
        self._active, self._choose = active, active.choose
        self._hook = model.register_forward_pre_hook(self._begin, with_kwargs=True)
        active.choose = self._chosen

    def _begin(self, model: nn.Module, args: tuple, inputs: Mapping[str, Any]) -> None:
        if torch.is_grad_enabled():  # not in a validation
            self.batches.append(Batch(inputs["input_ids"], inputs["attention_mask"], inputs["labels"]))

    def _chosen(self, dy: Tensor, part: float) -> tuple[Tensor, ...]:
        chosen = self._choose(dy, part)
        if self.batches:
            self.batches[-1].add(shares(dy, chosen[0]))
        return chosen

    def _undo(self) -> None:
        self._active.choose = self._choose
        self._hook.remove()


class Batch:
    """Of one batch, the sum over layers of what each token holds.

    Args:
        ids, mask: ``(texts, length)``.
        labels: ``(texts,)`` or ``(texts, length)``.
    """

    def __init__(self, ids: Tensor, mask: Tensor, labels: Tensor):
        self.ids, self.mask, self.labels = ids, mask, labels
        self._held: dict[int, Tensor] = {}
        self._layers: Counter[int] = Counter()

    def add(self, held: Tensor) -> None:
        """What each token ``(T,)`` holds in one more layer, with the padding or, where the model leaves it out, without."""
        size = len(held)
        self._held[size] = self._held[size] + held if size in self._held else held
        self._layers[size] += 1

    def rows(self) -> Iterator[tuple[list[int], Any, list[float]]]:
        """Of each text without its padding: ids, label or labels, and what each token holds, as the mean over layers."""
        real = self.mask.bool()
        held = self._over_real(real).split(real.sum(1).tolist())
        for i, own in enumerate(held):
            labels = self.labels[i] if self.labels.dim() == 1 else self.labels[i][real[i]]
            yield self.ids[i][real[i]].tolist(), labels.tolist(), own.tolist()

    def _over_real(self, real: Tensor) -> Tensor:
        count = int(real.sum())
        total, layers = torch.zeros(count, dtype=torch.float64, device=real.device), 0
        for size, held in self._held.items():
            if size in (count, real.numel()):
                total += held if size == count else held.view(real.shape)[real]
                layers += self._layers[size]
        return total / max(1, layers)


def shares(dy: Tensor, index: Tensor) -> Tensor:
    """Each token's part of the squared norm that the active rows of ``dy`` ``(T, out)`` hold together: ``(T,)`` float64.

    0 for a token that is not active; 0 for all where the norm is 0 or not finite.
    """
    norms = dy.detach().double().square().sum(1)
    active = torch.zeros(len(norms) + 1, dtype=torch.bool, device=dy.device).index_fill_(0, index, True)[:-1]
    held = norms.where(active, 0)
    total = held.sum()
    return (held / total).where((total > 0) & total.isfinite(), 0)
