"""Compact gradients of linear and embedding weights."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from clm_kernels import _cpu

from ..layout import COLUMNS, ROWS, Layout
from .arguments import array, entries, matrix, unit_columns


def weight_grad(dy: Tensor, x: Tensor, index: Tensor, layout: Sequence[int], dtype: torch.dtype) -> Tensor:
    if type(layout) is not Layout:
        layout = Layout(*layout)
    kind, count = layout.kind, index.numel()
    dy_sliced = kind == ROWS and dy.shape[1] != layout.rows
    x_sliced = kind == COLUMNS and x.shape[1] != layout.columns
    if kind <= COLUMNS and product_is_faster(count, dy.dtype, dtype):
        dy, x = dy.detach(), x.detach()
        if kind == ROWS:
            return (dy if dy_sliced else dy.index_select(1, index)).T @ x
        return dy.T @ (x if x_sliced else x.index_select(1, index))
    dy, x = unit_columns(dy), unit_columns(x)
    compact = dy.new_empty(layout.compact_shape(count), dtype=dtype)
    _cpu.weight_grad(
        matrix(dy, dy_sliced), matrix(x, x_sliced), dy.shape[0], entries(index, layout), array(compact), torch.get_num_threads()
    )
    return compact


def product_is_faster(count: int, operands: torch.dtype, result: torch.dtype) -> bool:
    """Whether torch's product of the sliced operands beats the kernel for `count` rows or columns.

    Measured with 64 to 8192 tokens, a 768x3072 weight and 0.1 % to 10 % of it, on Zen 4: a single row is a
    matrix-vector product, which torch does in half the time. In bfloat16 oneDNN multiplies with AVX512-BF16, twice
    as fast as float32, and wins from 5 rows on, by 1.1 to 2.4 times. In all other cases the kernel was faster or even.
    """
    if operands != result:
        return False
    if operands == torch.bfloat16:
        return count > 4 and _cpu.bfloat16_products
    return count == 1 and operands != torch.float16


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
