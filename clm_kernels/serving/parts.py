"""What a task's selected entries add to the output of a linear layer, as a product of these entries alone."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..ops.grouped import Groups, Shape, groups_of
from ..selection import Entries


class Product(NamedTuple):
    """``x[:, inputs] @ weight`` of several groups at once.

    Attributes:
        inputs: ``(G * c,)`` features of x, group after group; None for all.
        weight: ``(G, c, r)``.
    """

    inputs: Tensor | None
    weight: Tensor

    def of(self, x: Tensor) -> Tensor:
        """``(T, G * r)`` of x ``(T, in)``."""
        groups, width, height = self.weight.shape
        if self.inputs is not None:
            x = x.index_select(1, self.inputs)
        if groups == 1:
            return x @ self.weight[0]
        return torch.bmm(x.view(-1, groups, width).transpose(0, 1), self.weight).transpose(0, 1).reshape(-1, groups * height)


class Part:
    """``x @ change.T`` of a weight ``(out, in)`` that changes at selected entries.

    Args:
        entries: rows, columns or blocks of the stored weight.
        change: new values less the base's, compact.
        transposed: whether the weight is stored ``(in, out)``.
    """

    def __init__(self, entries: Entries, change: Tensor, transposed: bool):
        self._outputs = entries.shape[1 if transposed else 0]
        if entries.kind == "blocks":
            self._products, at = _of_blocks(entries, change, transposed)
        else:
            self._products, at = _of_lines(entries, change, transposed)
        self._at, self._whole = at, at is None
        self._once = at is not None and len(at.unique()) == len(at)
        if at is not None and self._once:  # where each output stands among the products', or a zero behind them
            self._at = at.new_full((self._outputs,), len(at))
            self._at[at] = torch.arange(len(at), device=at.device)
            self._behind = len(at) < self._outputs

    @property
    def nbytes(self) -> int:
        tensors = [tensor for product in self._products for tensor in product if tensor is not None]
        return sum(tensor.nbytes for tensor in [*tensors, *([] if self._at is None else [self._at])])

    def add_(self, y: Tensor, x: Tensor) -> None:
        """Adds it to y ``(T, out)``, for x ``(T, in)``."""
        found = [product.of(x) for product in self._products]
        if self._whole:
            y += found[0]
        elif self._once:
            found += [y.new_zeros(len(y), 1)] if self._behind else []
            y += torch.cat(found, 1).index_select(1, self._at)
        else:  # several blocks of one row strip
            y += y.new_zeros(y.shape[1], len(y)).index_add_(0, self._at, torch.cat(found, 1).T).T


def _of_lines(entries: Entries, change: Tensor, transposed: bool) -> tuple[list[Product], Tensor | None]:
    index, weight = entries.index.long(), (change if transposed else change.T).contiguous()[None]
    of_outputs = (entries.kind == "rows") != transposed
    return [Product(None if of_outputs else index, weight)], index if of_outputs else None


def _of_blocks(entries: Entries, change: Tensor, transposed: bool) -> tuple[list[Product], Tensor]:
    """One product for the groups of each shape; blocks that are no groups count as a group each."""
    index, (height, width) = entries.index.long(), change.shape[1:]
    grid = entries.shape[1] // width
    alone = Groups((Shape(len(index), 1, 1),), index // grid, index % grid, index, torch.arange(len(index), device=index.device))
    groups = groups_of(entries._held, entries.layout) or alone
    stacked = torch.empty_like(change)
    stacked[groups.order] = change
    products, outputs, begin = [], [], [0, 0, 0]
    for count, tall, wide in groups.shapes:
        sizes = count * tall, count * wide, count * tall * wide
        rows, columns, blocks = (
            held[start : start + size]
            for held, start, size in zip((groups.rows, groups.columns, stacked), begin, sizes, strict=True)
        )
        begin = [start + size for start, size in zip(begin, sizes, strict=True)]
        weight = blocks.view(count, tall, wide, height, width).transpose(2, 3).reshape(count, tall * height, wide * width)
        inputs, at = _lines(columns, width), _lines(rows, height)
        if transposed:
            inputs, at = at, inputs
        products.append(Product(inputs, (weight if transposed else weight.mT).contiguous()))
        outputs.append(at)
    return products, torch.cat(outputs)


def _lines(strips: Tensor, width: int) -> Tensor:
    """Rows or columns of the strips."""
    return (strips[:, None] * width + torch.arange(width, device=strips.device)).flatten()
