"""What an AdamW step works on, but for the gradients: the lists of `ops.adamw_step_`, one item for each parameter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from .layout import DENSE


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
    def floats(self) -> tuple[list[Tensor], ...]:
        """The compact tensors: values, moments, their maxima, masters, anchors."""
        return self[:6]

    @property
    def tensors(self) -> tuple[list[Tensor], ...]:
        return self[:8]

    @property
    def sizes(self) -> list[list[int]]:
        """Lengths of the values and of the indices, and bytes of an index."""
        return [list(map(Tensor.numel, self.values)), list(map(Tensor.numel, self.indices)), [i.itemsize for i in self.indices]]

    @property
    def addresses(self) -> list[list[int]]:
        """Of all tensors; 0 for an empty one."""
        return [list(map(Tensor.data_ptr, tensors)) for tensors in self.tensors]

    @property
    def written(self) -> list[Tensor]:
        """What a step changes, gradients aside."""
        scattered = [dense for dense, kind in zip(self.denses, self.layouts[::5], strict=True) if kind != DENSE]
        maxima = self.max_exp_avg_sqs if self.amsgrad else []
        return [*self.values, *self.exp_avgs, *self.exp_avg_sqs, *self.masters, *scattered, *maxima]
