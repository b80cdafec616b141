"""Compact gradients from the matrix library's products of sliced operands; of elements, strip by strip."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from ..grouped import groups_of
from ..layout import BLOCKS, COLUMNS, ROWS, Layout
from .grouped import grouped_grad

STRIP = 1 << 22  # entries of the dense gradient that exist at a time, for elements


def weight_grad(dy: Tensor, x: Tensor, index: Tensor, layout: Sequence[int], dtype: torch.dtype) -> Tensor:
    layout, dy, x = Layout(*layout), dy.detach(), x.detach()
    if layout.kind == ROWS:
        rows = dy.index_select(1, index) if dy.shape[1] == layout.rows else dy
        return product(rows.T, x).to(dtype)
    if layout.kind == COLUMNS:
        columns = x.index_select(1, index) if x.shape[1] == layout.columns else x
        return product(dy.T, columns).to(dtype)
    if (groups := groups_of(index, layout)) is not None:
        return grouped_grad(dy, x, groups, layout, dtype)
    if layout.kind == BLOCKS:
        grid_columns = layout.columns // layout.block_columns
        rows = dy.unflatten(1, (-1, layout.block_rows)).index_select(1, index // grid_columns)  # (T, B, bm)
        columns = x.unflatten(1, (-1, layout.block_columns)).index_select(1, index % grid_columns)  # (T, B, bn)
        return product(rows.permute(1, 2, 0), columns.transpose(0, 1)).to(dtype)
    return _elements(dy, x, index, layout, dtype)


def product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b, or a batch of them, with sums that are not rounded: float32, or float64 for float64."""
    if a.dtype in (torch.float32, torch.float64):
        return a @ b
    if a.is_cuda:
        return (torch.mm if a.ndim == 2 else torch.bmm)(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()


def _elements(dy: Tensor, x: Tensor, index: Tensor, layout: Layout, dtype: torch.dtype) -> Tensor:
    """The dense gradient of some rows at a time, of which a few entries are kept: at 1 % nearly every tile holds one."""
    compact = dy.new_empty(index.shape, dtype=dtype)
    height = max(1, STRIP // max(1, layout.columns))
    for row, begin, end in strips(index, layout.columns, height):
        strip = product(dy[:, row : row + height].T, x)
        compact[begin:end] = strip.view(-1)[index[begin:end] - row * layout.columns]
    return compact


_known = WeakIdKeyDictionary()  # index -> its strips, since to find them one waits for the device


def strips(index: Tensor, columns: int, height: int) -> list[tuple[int, int, int]]:
    """(first row, begin, end) of each strip of `height` rows that has elements: those from `begin` to `end`."""
    known = _known.setdefault(index, {})
    if (columns, height) not in known:
        numbers, counts = torch.unique_consecutive(index // max(1, columns * height), return_counts=True)
        ends = counts.cumsum(0)
        known[columns, height] = list(
            zip((numbers * height).tolist(), (ends - counts).tolist(), ends.tolist(), strict=True)
        )  # fmt: skip
    return known[columns, height]
