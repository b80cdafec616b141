"""Compact gradients of linear and embedding weights."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from ... import _cpu
from ..layout import COLUMNS, ROWS, Layout
from .arguments import array, entries, matrix, unit_columns


def weight_grad(dy: Tensor, x: Tensor, index: Tensor, layout: Sequence[int], dtype: torch.dtype) -> Tensor:
    if type(layout) is not Layout:
        layout = Layout(*layout)
    kind, count = layout.kind, index.numel()
    dy_sliced = kind == ROWS and dy.shape[1] != layout.rows
    x_sliced = kind == COLUMNS and x.shape[1] != layout.columns
    dy, x = unit_columns(dy), unit_columns(x)
    compact = dy.new_empty(layout.compact_shape(count), dtype=dtype)
    _cpu.weight_grad(
        matrix(dy, dy_sliced), matrix(x, x_sliced), dy.shape[0], entries(index, layout), array(compact), torch.get_num_threads()
    )
    return compact


def embedding_grad(dy: Tensor, ids: Tensor, index: Tensor, layout: Sequence[int], dtype: torch.dtype) -> Tensor:
    dy, ids = unit_columns(dy), ids.contiguous()
    compact = dy.new_empty(Layout(*layout).compact_shape(index.numel()), dtype=dtype)
    _cpu.embedding_grad(
        matrix(dy), ids.data_ptr(), ids.itemsize, ids.numel(), entries(index, layout), array(compact), torch.get_num_threads()
    )
    return compact


def masked_grad_(grad: Tensor, dense_grad: Tensor, index: Tensor, layout: Sequence[int], scale: float) -> Tensor:
    dense_grad = dense_grad.contiguous()
    found = _cpu.masked_grad(array(grad), array(dense_grad), entries(index, layout), scale, torch.get_num_threads())
    increment_version(grad)
    return torch.tensor(float(found))
