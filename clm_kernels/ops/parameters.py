"""What an AdamW step works on, but for the gradients: the lists of `ops.adamw_step_`, one item for each parameter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from .fields import ARRAYS, TENSORS
from .layout import DENSE, Layout


class Parameters(NamedTuple):
    """See `ops.adamw_step_`; an empty tensor stands for "this parameter has none"."""

    values: list[Tensor]
    exp_avgs: list[Tensor]
    exp_avg_sqs: list[Tensor]
    max_exp_avg_sqs: list[Tensor]
    masters: list[Tensor]
    anchors: list[Tensor]
    denses: list[Tensor]
    indices: list[Tensor]
    layouts: Sequence[int]
    amsgrad: bool
    maximize: bool

    @property
    def arrays(self) -> tuple[list[Tensor], ...]:
        """The compact tensors, in the order of `fields.ARRAYS`."""
        return tuple(getattr(self, name) for name in ARRAYS)

    @property
    def tensors(self) -> tuple[list[Tensor], ...]:
        """In the order of `fields.TENSORS`."""
        return tuple(getattr(self, name) for name in TENSORS)

    @property
    def written(self) -> list[Tensor]:
        """What a step changes, gradients aside."""
        every = Layout.every(self.layouts)
        scattered = [dense for dense, layout in zip(self.denses, every, strict=True) if layout.kind != DENSE]
        maxima = self.max_exp_avg_sqs if self.amsgrad else []
        return [*self.values, *self.exp_avgs, *self.exp_avg_sqs, *self.masters, *scattered, *maxima]
