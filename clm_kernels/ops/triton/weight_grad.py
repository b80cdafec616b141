"""Compact gradients of rows, columns and blocks on tensor cores; of elements as sampled products."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import vendor
from ..layout import BLOCKS, COLUMNS, ELEMENTS, ROWS, Layout
from ..registry import INTERPRETED
from .narrow import narrow
from .sampled_product import sampled


@triton.jit
def outer_product(
    dy, x, index, out, tokens, split_tokens, rows, columns, units, dy_stride, x_stride, grid_columns,
    PICK_DY: tl.constexpr, PICK_X: tl.constexpr, BLOCKS: tl.constexpr, PRECISION: tl.constexpr, WIDEN: tl.constexpr,
    TILE_ROWS: tl.constexpr, TILE_COLUMNS: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    """One tile of one of `units` matrices (rows x columns), over one share of the tokens.

    ``out[split, unit, i, j] = sum over t of dy[t, i'] * x[t, j']``, where i' and j' are the selected positions.
    """
    tile, unit, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    tiles = tl.cdiv(columns, TILE_COLUMNS)
    i = tile // tiles * TILE_ROWS + tl.arange(0, TILE_ROWS)
    j = tile % tiles * TILE_COLUMNS + tl.arange(0, TILE_COLUMNS)
    dy_column, x_column = i, j
    if PICK_DY:
        dy_column = tl.load(index + i, mask=i < rows, other=0)
    if PICK_X:
        x_column = tl.load(index + j, mask=j < columns, other=0)
    if BLOCKS:
        block = tl.load(index + unit)
        dy_column += block // grid_columns * rows
        x_column += block % grid_columns * columns

    sums = tl.zeros((TILE_ROWS, TILE_COLUMNS), dtype=tl.float32)
    first = split * split_tokens
    last = tl.minimum(first + split_tokens, tokens)
    for begin in range(first, last, TOKENS):
        t = begin + tl.arange(0, TOKENS)
        at = t.to(tl.int64)
        a = tl.load(dy + at[None, :] * dy_stride + dy_column[:, None], mask=(t < last)[None, :] & (i < rows)[:, None], other=0.0)
        b = tl.load(x + at[:, None] * x_stride + x_column[None, :], mask=(t < last)[:, None] & (j < columns)[None, :], other=0.0)
        if WIDEN:
            a, b = a.to(tl.float32), b.to(tl.float32)
        sums = tl.dot(a, b, sums, input_precision=PRECISION)

    row = (split * units + unit).to(tl.int64) * rows + i
    place = out + row[:, None] * columns + j[None, :]
    tl.store(place, narrow(sums, out.dtype.element_ty), mask=(i < rows)[:, None] & (j < columns)[None, :])


def weight_grad(dy: Tensor, x: Tensor, index: Tensor, layout: Sequence[int], dtype: torch.dtype) -> Tensor:
    """As `ops.weight_grad`; float64 goes to the vendor's products."""
    layout = Layout(*layout)
    count, tokens = index.numel(), dy.shape[0]
    compact = dy.new_empty(layout.compact_shape(count), dtype=dtype)
    if dy.dtype == torch.float64:
        return vendor.weight_grad(dy, x, index, layout, dtype)
    if tokens == 0 or compact.numel() == 0:
        return compact.zero_()
    if layout.kind == ELEMENTS:
        return sampled(dy, x, index, layout.columns, compact)
    dy, x = unit_columns(dy), unit_columns(x)

    units = count if layout.kind == BLOCKS else 1
    rows, columns = compact.shape[-2:]
    tile_rows, tile_columns, step = tile_sizes(rows, columns, dy.dtype)
    tiles = triton.cdiv(rows, tile_rows) * triton.cdiv(columns, tile_columns)
    split_tokens = share_of_tokens(tokens, tiles * units, step, processors(dy.device))
    splits = triton.cdiv(tokens, split_tokens)
    out = compact if splits == 1 else compact.new_empty((splits, *compact.shape), dtype=torch.float32)
    with torch.cuda.device_of(dy):
        outer_product[tiles, units, splits](
            dy, x, index, out, tokens, split_tokens, rows, columns, units, dy.stride(0), x.stride(0),
            layout.columns // max(1, layout.block_columns),
            PICK_DY=layout.kind == ROWS and dy.shape[1] == layout.rows, PICK_X=layout.kind == COLUMNS and x.shape[1] == layout.columns,
            BLOCKS=layout.kind == BLOCKS, PRECISION=precision(dy), WIDEN=INTERPRETED,  # numpy, which the interpreter multiplies with, has no bfloat16
            TILE_ROWS=tile_rows, TILE_COLUMNS=tile_columns, TOKENS=step, num_warps=4 if tile_rows * tile_columns < 128 * 128 else 8,
        )  # fmt: skip
    return compact if splits == 1 else out.sum(0).to(dtype)


def unit_columns(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


def tile_sizes(rows: int, columns: int, dtype: torch.dtype) -> tuple[int, int, int]:
    """Rows and columns of a tile, and tokens of one step; at most 128 x 128 sums, 64 x 64 in float32."""
    largest = 128 if dtype.itemsize == 2 else 64
    tile_rows = min(largest, max(16, triton.next_power_of_2(rows)))
    tile_columns = min(largest, max(16, triton.next_power_of_2(columns)))
    return tile_rows, tile_columns, 64 if dtype.itemsize == 2 else 16


def share_of_tokens(tokens: int, programs: int, step: int, processors: int) -> int:
    """Tokens of one program, so many that two programs run on each multiprocessor and each has work for a while."""
    splits = max(1, min(2 * processors // programs, tokens // (8 * step)))
    return triton.cdiv(triton.cdiv(tokens, splits), step) * step


@functools.cache
def processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 8


def precision(operand: Tensor) -> str:
    """TensorFloat-32 only where torch allows it for its own products."""
    return "tf32" if operand.is_cuda and torch.backends.cuda.matmul.allow_tf32 else "ieee"
