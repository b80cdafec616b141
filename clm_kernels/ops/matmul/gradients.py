"""Compact gradients from the matrix library's products: of sliced operands, or of scattered entries strip by strip."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from ..grouped import groups_of
from ..layout import BLOCKS, COLUMNS, ROWS, Layout
from ..padding import padded, picked
from ..reference.gradients import accumulator
from .grouped import grouped_grad
from .product import lanes, product

STRIP = 1 << 22  # entries of the dense gradient that exist at a time, for small blocks and elements
COPIES = 4  # of the operands' size: what slices of them for large blocks may take (8 x 8 blocks, a tenth of 4096^2: 51)


def weight_grad(dy: Tensor, x: Tensor, index: Tensor, layout: Sequence[int], dtype: torch.dtype) -> Tensor:
    layout, dy, x = Layout(*layout), dy.detach(), x.detach()
    count, many = index.numel(), lanes(dy)
    if layout.kind == ROWS:
        rows = picked(dy, index, many) if dy.shape[1] == layout.rows else padded(dy, many)
        return product(rows.T, padded(x, many), dtype)[:count, : layout.columns].contiguous()
    if layout.kind == COLUMNS:
        columns = picked(x, index, many) if x.shape[1] == layout.columns else padded(x, many)
        return product(padded(dy, many).T, columns, dtype)[: layout.rows, :count].contiguous()
    aligned = layout.block_rows % many == layout.block_columns % many == 0
    if aligned and (groups := groups_of(index, layout)) is not None:
        return grouped_grad(dy, x, groups, layout, dtype)
    if layout.kind == BLOCKS and count * (layout.block_rows + layout.block_columns) <= COPIES * (layout.rows + layout.columns):
        return _large_blocks(dy, x, index, layout, dtype)
    return _strip_by_strip(padded(dy, many), padded(x, many), index, layout, dtype)


def _large_blocks(dy: Tensor, x: Tensor, index: Tensor, layout: Layout, dtype: torch.dtype) -> Tensor:
    """A batch of products of slices, which together are of the operands' size."""
    grid_columns = layout.columns // max(1, layout.block_columns)
    rows = dy.unflatten(1, (-1, layout.block_rows)).index_select(1, index // grid_columns)  # (T, B, bm)
    columns = x.unflatten(1, (-1, layout.block_columns)).index_select(1, index % grid_columns)  # (T, B, bn)
    return product(rows.permute(1, 2, 0), columns.transpose(0, 1), dtype)


def _strip_by_strip(dy: Tensor, x: Tensor, index: Tensor, layout: Layout, dtype: torch.dtype) -> Tensor:
    """The dense gradient of some rows at a time, of which a few entries are kept: at 1 % nearly every tile holds one."""
    if not dy.is_cuda:
        dy, x = dy.to(accumulator(dy.dtype)), x.to(accumulator(x.dtype))  # once, where `product` would for each strip
    block_rows, block_columns = (layout.block_rows, layout.block_columns) if layout.kind == BLOCKS else (1, 1)
    grid_columns = layout.columns // max(1, block_columns)
    least = math.lcm(block_rows, lanes(dy))  # so that each strip of dy begins where it can be read fast
    height = max(1, STRIP // max(1, layout.columns * least)) * least
    compact = layout.new_compact(dy, index, dtype)
    for unit_row, begin, end in strips(index, grid_columns, height // block_rows):
        row = unit_row * block_rows
        strip = product(dy[:, row : min(row + height, layout.rows)].T, x)[:, : layout.columns]
        unit = index[begin:end] - unit_row * grid_columns
        if layout.kind == BLOCKS:
            grid = strip.unflatten(1, (-1, block_columns)).unflatten(0, (-1, block_rows))  # (grid rows, bm, grid columns, bn)
            compact[begin:end] = grid[unit // grid_columns, :, unit % grid_columns]
        else:
            compact[begin:end] = strip.reshape(-1)[unit]
    return compact


_known = WeakIdKeyDictionary()  # index -> its strips, since to find them one waits for the device


def strips(index: Tensor, columns: int, height: int) -> list[tuple[int, int, int]]:
    """(first row, begin, end) of each strip of `height` rows that has units: those from `begin` to `end`."""
    known = _known.setdefault(index, {})
    if (columns, height) not in known:
        numbers, counts = torch.unique_consecutive(index // max(1, columns * height), return_counts=True)
        ends = counts.cumsum(0)
        known[columns, height] = list(
            zip((numbers * height).tolist(), (ends - counts).tolist(), ends.tolist(), strict=True)
        )  # fmt: skip
    return known[columns, height]
