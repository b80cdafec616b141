"""Compact gradients of dealt groups: one batched product for all groups of a shape, of strips that are gathered once."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ..grouped import Groups
from ..layout import Layout
from ..reference.gradients import accumulator

TOKENS = 1024  # gathered at a time on the CPU: of 4096, all at once took 1.5 times as long (3072 x 768, Zen 4)


def grouped_grad(dy: Tensor, x: Tensor, groups: Groups, layout: Layout, dtype: torch.dtype) -> Tensor:
    """``(B, bm, bn)`` in the index's order; dy ``(T, out)`` and x ``(T, in)``."""
    height, width = layout.block_rows, layout.block_columns
    sums: list[Tensor] = []  # of each shape, (groups, rows * bm, columns * bn)
    for part_dy, part_x in _parts(dy, x):
        strips_dy = part_dy.unflatten(1, (-1, height)).index_select(1, groups.rows).flatten(1)
        strips_x = part_x.unflatten(1, (-1, width)).index_select(1, groups.columns).flatten(1)
        operands = zip(
            strips_dy.split([count * rows * height for count, rows, _ in groups.shapes], 1),
            strips_x.split([count * columns * width for count, _, columns in groups.shapes], 1),
            strict=True,
        )
        for i, ((count, _, _), (a, b)) in enumerate(zip(groups.shapes, operands, strict=True)):
            a = a.unflatten(1, (count, -1)).permute(1, 2, 0)  # (groups, rows * bm, T)
            b = b.unflatten(1, (count, -1)).transpose(0, 1)  # (groups, T, columns * bn)
            if len(sums) == len(groups.shapes):
                sums[i].baddbmm_(a, b)
            else:
                sums.append(_product(a, b))
    blocks = [
        dense.view(count, rows, height, columns, width).transpose(2, 3).reshape(-1, height, width)
        for dense, (count, rows, columns) in zip(sums, groups.shapes, strict=True)
    ]
    stacked = blocks[0] if len(blocks) == 1 else torch.cat(blocks)
    return stacked.index_select(0, groups.order).to(dtype)


def _product(a: Tensor, b: Tensor) -> Tensor:
    wide = accumulator(a.dtype)
    return torch.bmm(a, b) if a.dtype == wide else torch.bmm(a, b, out_dtype=wide)


def _parts(dy: Tensor, x: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
    """The tokens, on the CPU some at a time and in the type that they are summed in."""
    if dy.is_cuda:
        return ((dy, x),)
    wide = accumulator(dy.dtype)
    return ((a.to(wide), b.to(wide)) for a, b in zip(dy.split(TOKENS), x.split(TOKENS), strict=True))
