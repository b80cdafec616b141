"""Blocks that are dealt groups: recognised from the sorted index alone, once, and remembered with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from .layout import BLOCKS, Layout


class Shape(NamedTuple):
    """So many groups of the same number of row strips and of column strips."""

    groups: int
    rows: int
    columns: int


class Groups(NamedTuple):
    """Dense rectangles of strips, of which no two share a row strip or a column strip; together they are all the blocks.

    Attributes:
        shapes: the groups, those of one shape together.
        rows: row strips, group after group, ascending in each; int64, on the index's device.
        columns: column strips likewise.
        firsts: of each of `rows` the place of its first block in the index, where its others follow, by column.
        order: ``(B,)`` int64: where each block of the index stands among the groups' blocks, row-major in each group.
    """

    shapes: tuple[Shape, ...]
    rows: Tensor
    columns: Tensor
    firsts: Tensor
    order: Tensor


_known = WeakIdKeyDictionary()  # index -> its version, and layout -> groups: to find them one waits for the device


def groups_of(index: Tensor, layout: Sequence[int]) -> Groups | None:
    """The groups that a block index consists of; None where it does not, and for other kinds.

    The first call for an index reads it on the host. While a CUDA graph is captured nothing can be read, and an index that
    was never seen before counts as not grouped: the steps that warm up before a capture see to it.
    """
    if layout[0] != BLOCKS:
        return None
    if index.is_inference():  # such a tensor does not say that it has changed
        return find_groups(index, Layout(*layout))
    version, known = _known.get(index, (-1, {}))
    if version != index._version:
        _known[index] = index._version, (known := {})
    key = tuple(layout)
    if key not in known:
        if index.is_cuda and torch.cuda.is_current_stream_capturing():
            return None
        known[key] = find_groups(index, Layout(*key))
    return known[key]


def find_groups(index: Tensor, layout: Layout) -> Groups | None:
    """As `groups_of`, without a memory.

    Rows whose sets of columns are equal or disjoint are of one group where their first columns are the same. So each row
    takes its first column as a label, each column the label of a row that holds it; the blocks are groups if the labels
    agree in every block, and there are as many blocks as the rectangles hold.
    """
    at = index.cpu().long()
    if not at.numel():
        return None
    grid_rows, grid_columns = layout.rows // layout.block_rows, layout.columns // layout.block_columns
    row, column = at // grid_columns, at % grid_columns
    begins = torch.cat([at.new_ones(1, dtype=torch.bool), row[1:] != row[:-1]])
    firsts = begins.nonzero().flatten()
    label = column[firsts].repeat_interleave(torch.cat([firsts, at.new_tensor([at.numel()])]).diff())  # (B,)
    of_row, of_column = at.new_full((grid_rows,), -1), at.new_full((grid_columns,), -1)
    of_row[row], of_column[column] = label, label
    if not torch.equal(of_column[column], label):
        return None
    height, width = (torch.bincount(of[of >= 0], minlength=grid_columns) for of in (of_row, of_column))
    if int((height * width).sum()) != at.numel():
        return None

    labels = height.nonzero().flatten()
    tall = height[labels] * (grid_columns + 1) + width[labels]
    labels = labels[tall.argsort(stable=True)]
    sizes, counts = torch.stack([height[labels], width[labels]], 1).unique_consecutive(dim=0, return_counts=True)
    place = at.new_full((grid_columns,), -1)
    place[labels] = torch.arange(len(labels))
    rows, columns = (_in_groups(of, place) for of in (of_row, of_column))
    stacked = _blocks(rows, columns, height[labels], width[labels], grid_columns)
    first = at.new_zeros(grid_rows)
    first[row[firsts]] = firsts
    device = index.device
    return Groups(
        tuple(Shape(count, *size) for count, size in zip(counts.tolist(), sizes.tolist(), strict=True)),
        rows.to(device), columns.to(device), first[rows].to(device), stacked.argsort().to(device),
    )  # fmt: skip


def _in_groups(of: Tensor, place: Tensor) -> Tensor:
    """Strips that have a label, in the order of the labels' places, ascending in each."""
    strips = (of >= 0).nonzero().flatten()
    return strips[place[of[strips]].argsort(stable=True)]


def _blocks(rows: Tensor, columns: Tensor, height: Tensor, width: Tensor, grid_columns: int) -> Tensor:
    """Numbers of all blocks, group after group, row-major in each."""
    parts = zip(rows.split(height.tolist()), columns.split(width.tolist()), strict=True)
    return torch.cat([(r[:, None] * grid_columns + c).flatten() for r, c in parts])
