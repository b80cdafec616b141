"""Compact gradients of dealt groups: tiles of strips that are gathered as they are read, on tensor cores.

Not taken by `auto` before it is measured on a GPU: there the vendor's product of gathered copies is.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..grouped import Shape, groups_of
from ..layout import Layout
from ..registry import INTERPRETED
from .gradients import precision, processors, share_of_active, share_of_tokens, unit_columns
from .gradients import weight_grad as any_weight_grad
from .narrow import narrow
from .tables import length, places


class Tile(NamedTuple):
    """Strips of one group: those from `row` to `row_end` with those from `column` to `column_end`."""

    row: int
    row_end: int
    column: int
    column_end: int
    left: int  # of the group's column strips the first


_TILE = length(Tile._fields)
_ROW, _ROW_END, _COLUMN, _COLUMN_END, _LEFT = places(Tile._fields)


@triton.jit
def grouped_product(
    dy, x, rows, columns, firsts, tiles, out, active, active_count, tokens, split_tokens, blocks, dy_stride, x_stride,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, TILE_ROWS: tl.constexpr, TILE_COLUMNS: tl.constexpr, TOKENS: tl.constexpr,
    PRECISION: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """One tile of one group, of row and column strips that lie anywhere, over one share of the tokens.

    ``out[split, b, h, w] = sum over t of dy[t, HEIGHT * row + h] * x[t, WIDTH * column + w]`` for the blocks b of the tile.
    Where tokens are `active`, t is one of those.
    """
    tile, split = tiles + tl.program_id(0) * _TILE, tl.program_id(1)
    row, row_end = tl.load(tile + _ROW), tl.load(tile + _ROW_END)
    column, column_end = tl.load(tile + _COLUMN), tl.load(tile + _COLUMN_END)
    left = tl.load(tile + _LEFT)
    i, j = tl.arange(0, TILE_ROWS), tl.arange(0, TILE_COLUMNS)
    row += i // HEIGHT
    column += j // WIDTH
    in_rows, in_columns = row < row_end, column < column_end
    dy_column = tl.load(rows + row, mask=in_rows, other=0) * HEIGHT + i % HEIGHT
    x_column = tl.load(columns + column, mask=in_columns, other=0) * WIDTH + j % WIDTH
    # which Triton cannot know of what it reads from a table; without it, it reads 2 bytes at a time
    dy_column = tl.max_contiguous(tl.multiple_of(dy_column, HEIGHT), HEIGHT)
    x_column = tl.max_contiguous(tl.multiple_of(x_column, WIDTH), WIDTH)

    sums = tl.zeros((TILE_ROWS, TILE_COLUMNS), dtype=tl.float32)
    begin = split * split_tokens
    last = tl.minimum(begin + split_tokens, tokens)
    if active is not None:
        begin, last = share_of_active(active_count, tokens, split, tl.num_programs(1), TOKENS)
    for step in range(begin, last, TOKENS):
        t = step + tl.arange(0, TOKENS)
        there, at = t < last, t.to(tl.int64)
        if active is not None:
            at = tl.load(active + t, mask=there, other=-1)
            there = (at >= 0) & (at < tokens)
        a = tl.load(dy + at[None, :] * dy_stride + dy_column[:, None], mask=there[None, :] & in_rows[:, None], other=0.0)
        b = tl.load(x + at[:, None] * x_stride + x_column[None, :], mask=there[:, None] & in_columns[None, :], other=0.0)
        if WIDEN:
            a, b = a.to(tl.float32), b.to(tl.float32)
        sums = tl.dot(a, b, sums, input_precision=PRECISION)

    block = split.to(tl.int64) * blocks + tl.load(firsts + row, mask=in_rows, other=0)
    down = block * (HEIGHT * WIDTH) + i % HEIGHT * WIDTH
    across = (column - left) * (HEIGHT * WIDTH) + j % WIDTH
    across = tl.max_contiguous(tl.multiple_of(across, WIDTH), WIDTH)
    place = out + down[:, None] + across[None, :]
    tl.store(place, narrow(sums, out.dtype.element_ty), mask=in_rows[:, None] & in_columns[None, :])


def weight_grad(
    dy: Tensor, x: Tensor, index: Tensor, layout: Sequence[int], dtype: torch.dtype,
    active: Tensor | None = None, active_count: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """As `ops.weight_grad`: of dealt groups by the kernel here, of all else as `weight_grad` beside it does."""
    layout, active = Layout(*layout), None if active is None else active.contiguous()
    groups = groups_of(index, layout) if dy.shape[0] else None
    sizes = (layout.block_rows, layout.block_columns)
    if groups is None or any(size & (size - 1) or size > 128 for size in sizes):
        return any_weight_grad(dy, x, index, layout, dtype, active, active_count)
    dy, x = unit_columns(dy), unit_columns(x)
    tokens, count = dy.shape[0], index.numel()
    tile_rows, tile_columns, step = grouped_tiles(groups.shapes, *sizes, dy.dtype)
    tiles = tile_table(groups.shapes, tile_rows // sizes[0], tile_columns // sizes[1], dy.device)
    split_tokens = share_of_tokens(tokens, len(tiles), step, processors(dy.device))
    splits = triton.cdiv(tokens, split_tokens)
    compact = layout.new_compact(dy, index, dtype)
    out = compact if splits == 1 else compact.new_empty((splits, *compact.shape), dtype=torch.float32)
    with torch.cuda.device_of(dy):
        grouped_product[len(tiles), splits](
            dy, x, groups.rows, groups.columns, groups.firsts, tiles, out, active, active_count, tokens, split_tokens, count,
            dy.stride(0), x.stride(0),
            HEIGHT=sizes[0], WIDTH=sizes[1], TILE_ROWS=tile_rows, TILE_COLUMNS=tile_columns, TOKENS=step,
            PRECISION=precision(dy), WIDEN=INTERPRETED, num_warps=warps(tile_rows, tile_columns),
        )  # fmt: skip
    return compact if splits == 1 else out.sum(0).to(dtype)


def grouped_tiles(shapes: Sequence[Shape], height: int, width: int, dtype: torch.dtype) -> tuple[int, int, int]:
    """Rows and columns of a tile, and tokens of one step; at most 128 x 256 sums, 64 x 64 in float32."""
    most_rows, most_columns, step = (128, 256, 32) if dtype.itemsize == 2 else (64, 64, 16)
    rows = max(shape.rows for shape in shapes) * height
    columns = max(shape.columns for shape in shapes) * width
    tile_rows = max(16, height, min(most_rows, triton.next_power_of_2(rows)))
    tile_columns = max(16, width, min(most_columns, triton.next_power_of_2(columns)))
    return tile_rows, tile_columns, step


def warps(tile_rows: int, tile_columns: int) -> int:
    return 4 if tile_rows * tile_columns < 128 * 128 else 8


@functools.cache
def tile_table(shapes: tuple[Shape, ...], rows: int, columns: int, device: torch.device) -> Tensor:
    """``(tiles, fields of a Tile)`` int32.

    Args:
        rows, columns: strips that a tile holds.
    """
    table, top, left = [], 0, 0
    for count, high, wide in shapes:
        for _ in range(count):
            table += [
                Tile(i, min(i + rows, top + high), j, min(j + columns, left + wide), left)
                for i in range(top, top + high, rows)
                for j in range(left, left + wide, columns)
            ]
            top, left = top + high, left + wide
    return torch.tensor(table, dtype=torch.int32, device="cpu").to(device)
