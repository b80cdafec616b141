"""Which tokens of a batch carry the gradient, and the gradients of these alone: their rows are read where they lie."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ... import _cpu
from ..addresses import array, entries
from ..grouped import groups_of
from ..layout import Layout
from .arguments import matrix, unit_columns
from .gradients import operands


def active_tokens(dy: Tensor, part: float, counted: bool) -> tuple[Tensor, Tensor]:
    dy = unit_columns(dy)
    index, count = dy.new_empty(dy.shape[0], dtype=torch.int64), dy.new_empty((), dtype=torch.int64)
    _cpu.active_tokens(matrix(dy), *dy.shape, part, counted, index.data_ptr(), count.data_ptr(), torch.get_num_threads())
    return index, count


def drawn_tokens(dy: Tensor, noise: float, start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    dy = unit_columns(dy)
    index, count = dy.new_empty(dy.shape[0], dtype=torch.int64), dy.new_empty((), dtype=torch.int64)
    weight = dy.new_empty(dy.shape[0], dtype=torch.float32)
    found = index.data_ptr(), count.data_ptr(), weight.data_ptr()
    _cpu.drawn_tokens(matrix(dy), *dy.shape, noise, float(start), *found, torch.get_num_threads())
    return index, count, weight


def input_grad(dy: Tensor, weight: Tensor, tokens: Tensor, count: Tensor) -> Tensor:
    """A transposed weight, as `Conv1D` has it, is copied."""
    dy, weight, tokens = unit_columns(dy), unit_columns(weight), tokens.contiguous()
    dx = dy.new_empty(dy.shape[0], weight.shape[1])
    _cpu.input_grad(
        matrix(dy),
        matrix(weight),
        *dy.shape,
        weight.shape[1],
        tokens.data_ptr(),
        count.data_ptr(),
        array(dx),
        torch.get_num_threads(),
    )
    return dx


def active_weight_grad(
    dy: Tensor, x: Tensor, index: Tensor, layout: Sequence[int], dtype: torch.dtype, tokens: Tensor, count: Tensor
) -> Tensor:
    layout = Layout(*layout)
    dy, x, tokens = unit_columns(dy), unit_columns(x), tokens.contiguous()
    compact = layout.new_compact(dy, index, dtype)
    groups = groups_of(index, layout)
    _cpu.active_weight_grad(
        *operands(dy, x, layout),
        dy.shape[0],
        entries(index, layout, compact),
        tokens.data_ptr(),
        count.data_ptr(),
        *((None, 0, 0, 0) if groups is None else (groups.shapes, *map(Tensor.data_ptr, groups[1:4]))),
        array(compact),
        torch.get_num_threads(),
    )
    return compact
