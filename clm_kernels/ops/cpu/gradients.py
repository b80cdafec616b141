"""Compact gradients of linear and embedding weights."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from ... import _cpu
from ..addresses import array, entries
from ..layout import COLUMNS, ROWS, Layout
from .arguments import matrix, unit_columns


def weight_grad(dy: Tensor, x: Tensor, index: Tensor, layout: Sequence[int], dtype: torch.dtype) -> Tensor:
    if type(layout) is not Layout:
        layout = Layout(*layout)
    dy, x = unit_columns(dy), unit_columns(x)
    compact = layout.new_compact(dy, index, dtype)
    _cpu.weight_grad(
        *operands(dy, x, layout),
        dy.shape[0],
        entries(index, layout, compact),
        array(compact),
        torch.get_num_threads(),
    )
    return compact


def operands(dy: Tensor, x: Tensor, layout: Layout) -> tuple[tuple, tuple]:
    """`matrix` of each, told whether it holds the selected columns only."""
    dy_sliced = layout.kind == ROWS and dy.shape[1] != layout.rows
    x_sliced = layout.kind == COLUMNS and x.shape[1] != layout.columns
    return matrix(dy, dy_sliced), matrix(x, x_sliced)


def embedding_grad(dy: Tensor, ids: Tensor, index: Tensor, layout: Sequence[int], dtype: torch.dtype) -> Tensor:
    dy, ids = unit_columns(dy), ids.contiguous()
    compact = Layout(*layout).new_compact(dy, index, dtype)
    _cpu.embedding_grad(
        matrix(dy),
        ids.data_ptr(),
        ids.itemsize,
        ids.numel(),
        entries(index, layout, compact),
        array(compact),
        torch.get_num_threads(),
    )
    return compact


def masked_grad_(grad: Tensor, dense_grad: Tensor, index: Tensor, layout: Sequence[int], scale: float) -> Tensor:
    dense_grad = dense_grad.contiguous()
    found = _cpu.masked_grad(array(grad), array(dense_grad), entries(index, layout, grad), scale, torch.get_num_threads())
    increment_version(grad)
    return torch.tensor(float(found))
