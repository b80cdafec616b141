"""Gradients of active tokens alone: their rows are copied together, and multiplied by the matrix library."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .gradients import weight_grad
from .product import product


def input_grad(dy: Tensor, weight: Tensor, tokens: Tensor, count: Tensor) -> Tensor:
    """A GPU's host waits for the count."""
    active = tokens[: int(count)]
    dx = dy.new_zeros(dy.shape[0], weight.shape[1])
    return dx.index_copy_(0, active, product(dy.index_select(0, active), weight, dy.dtype))


def active_weight_grad(
    dy: Tensor, x: Tensor, index: Tensor, layout: Sequence[int], dtype: torch.dtype, tokens: Tensor, count: Tensor
) -> Tensor:
    """A GPU's host waits for the count."""
    active = tokens[: int(count)]
    return weight_grad(dy.index_select(0, active), x.index_select(0, active), index, layout, dtype)
