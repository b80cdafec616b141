"""Compact gradients of rows, columns and blocks on tensor cores; of elements as sampled products."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..layout import BLOCKS, COLUMNS, ELEMENTS, ROWS, Layout
from ..padding import padded, picked
from ..registry import INTERPRETED
from .narrow import narrow
from .sampled_product import sampled

LANES = 16  # elements: what Triton must know rows to begin at multiples of, to read 16 bytes at a time


@triton.jit
def share_of_active(active_count, tokens, split, splits, STEP: tl.constexpr):
    """First and end of one share of the active tokens, in whole steps; how many there are the host does not know."""
    there = tl.maximum(tl.minimum(tl.load(active_count), tokens), 0).to(tl.int32)
    split_tokens = tl.cdiv(tl.cdiv(there, splits), STEP) * STEP
    return split * split_tokens, tl.minimum((split + 1) * split_tokens, there)


@triton.jit
def outer_product(
    dy, x, index, out, active, active_count, tokens, split_tokens, rows, columns, dy_columns, x_columns, units, dy_stride, x_stride, grid_columns,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr, PRECISION: tl.constexpr, WIDEN: tl.constexpr,
    TILE_ROWS: tl.constexpr, TILE_COLUMNS: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    """One tile of one of `units` matrices (rows x columns), over one share of the tokens.

    ``out[split, unit, i, j] = sum over t of dy[t, i'] * x[t, j']``. Of blocks, i' and j' begin where the unit's block does, and
    rows and columns are known when the kernel is compiled; else i' = i, j' = j, and the operands end in columns of zeros.
    Where tokens are `active`, t is one of those.
    """
    if BLOCK_ROWS > 0:
        rows, columns, dy_columns, x_columns = BLOCK_ROWS, BLOCK_COLUMNS, BLOCK_ROWS, BLOCK_COLUMNS
    across = tl.cdiv(columns, TILE_COLUMNS)
    tiles = tl.cdiv(rows, TILE_ROWS) * across
    tile, unit, split = tl.program_id(0) % tiles, tl.program_id(0) // tiles % units, tl.program_id(0) // tiles // units
    i = tile // across * TILE_ROWS + tl.arange(0, TILE_ROWS)
    j = tile % across * TILE_COLUMNS + tl.arange(0, TILE_COLUMNS)
    dy_column, x_column = i, j
    if BLOCK_ROWS > 0:
        block = tl.load(index + unit)
        dy_column += (block // grid_columns * BLOCK_ROWS).to(tl.int32)
        x_column += (block % grid_columns * BLOCK_COLUMNS).to(tl.int32)

    sums = tl.zeros((TILE_ROWS, TILE_COLUMNS), dtype=tl.float32)
    first = split * split_tokens
    last = tl.minimum(first + split_tokens, tokens)
    if active is not None:
        first, last = share_of_active(active_count, tokens, split, tl.num_programs(0) // tiles // units, TOKENS)
    for begin in range(first, last, TOKENS):
        t = begin + tl.arange(0, TOKENS)
        there, at = t < last, t.to(tl.int64)
        if active is not None:
            at = tl.load(active + t, mask=there, other=-1)
            there = (at >= 0) & (at < tokens)
        a = tl.load(dy + at[None, :] * dy_stride + dy_column[:, None], mask=there[None, :] & (i < dy_columns)[:, None], other=0.0)
        b = tl.load(x + at[:, None] * x_stride + x_column[None, :], mask=there[:, None] & (j < x_columns)[None, :], other=0.0)
        if WIDEN:
            a, b = a.to(tl.float32), b.to(tl.float32)
        sums = tl.dot(a, b, sums, input_precision=PRECISION)

    row = (split * units + unit).to(tl.int64) * rows + i
    place = out + row[:, None] * columns + j[None, :]
    tl.store(place, narrow(sums, out.dtype.element_ty), mask=(i < rows)[:, None] & (j < columns)[None, :])


def weight_grad(
    dy: Tensor, x: Tensor, index: Tensor, layout: Sequence[int], dtype: torch.dtype,
    active: Tensor | None = None, active_count: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """As `ops.weight_grad`, but for float64; `active` tokens are all by default."""
    layout = Layout(*layout)
    count, tokens = index.numel(), dy.shape[0]
    compact = layout.new_compact(dy, index, dtype)
    if tokens == 0 or compact.numel() == 0:
        return compact.zero_()
    if layout.kind == ELEMENTS:
        return sampled(dy, x, index, layout.columns, compact, active, active_count)
    if layout.kind == ROWS and dy.shape[1] == layout.rows:
        dy = picked(dy, index, LANES)
    if layout.kind == COLUMNS and x.shape[1] == layout.columns:
        x = picked(x, index, LANES)
    dy, x = padded(dy, LANES), padded(x, LANES)

    units = count if layout.kind == BLOCKS else 1
    rows, columns = compact.shape[-2:]
    tile_rows, tile_columns, step = tile_sizes(rows, columns, dy.dtype)
    programs = triton.cdiv(rows, tile_rows) * triton.cdiv(columns, tile_columns) * units
    split_tokens = share_of_tokens(tokens, programs, step, processors(dy.device))
    splits = triton.cdiv(tokens, split_tokens)
    out = compact if splits == 1 else compact.new_empty((splits, *compact.shape), dtype=torch.float32)
    block_rows, block_columns = (rows, columns) if layout.kind == BLOCKS else (0, 0)
    with torch.cuda.device_of(dy):
        outer_product[(programs * splits,)](
            dy, x, index, out, active, active_count, tokens, split_tokens, rows, columns, dy.shape[1], x.shape[1], units,
            dy.stride(0), x.stride(0), layout.columns // max(1, block_columns),
            BLOCK_ROWS=block_rows, BLOCK_COLUMNS=block_columns,
            PRECISION=precision(dy), WIDEN=INTERPRETED,  # numpy, which the interpreter multiplies with, has no bfloat16
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
