"""What a task's selected entries add to the output of a linear layer, as a product of these entries alone."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops.grouped import Groups, Shape, groups_of
from ..selection import Entries


class Part:
    """``x @ change.T`` of a weight ``(out, in)`` that changes at selected entries.

    Rows and columns are one product. Of dealt groups those of one shape are a batch of products, of strips that are gathered
    and scattered whole; blocks that are no groups count as a group each.

    Args:
        entries: rows, columns or blocks of the stored weight.
        change: new values less the base's, compact.
        transposed: whether the weight is stored ``(in, out)``.
    """

    def __init__(self, entries: Entries, change: Tensor, transposed: bool):
        made = _of_blocks if entries.kind == "blocks" else _of_lines
        self._weights, sides = made(entries, change)
        rows, columns = sides[::-1] if transposed else sides
        if not transposed:
            self._weights = [weight.mT for weight in self._weights]
        self._weights = [weight.contiguous() for weight in self._weights]  # (G, in, out)
        self._inputs, self._outputs = columns, rows
        count = entries.shape[1 if transposed else 0]
        self._once = rows is None or len(rows.strips.unique()) == len(rows.strips)
        if rows is not None and self._once:  # where each strip stands among the products', or zeros behind them
            places = rows.strips.new_full((count // rows.width,), len(rows.strips))
            places[rows.strips] = torch.arange(len(rows.strips), device=places.device)
            self._behind = rows.width * (len(rows.strips) < len(places))
            self._outputs = Strips(places, rows.width)

    @property
    def nbytes(self) -> int:
        strips = [side.strips for side in (self._inputs, self._outputs) if side is not None]
        return sum(tensor.nbytes for tensor in [*self._weights, *strips])

    def add_(self, y: Tensor, x: Tensor) -> None:
        """Adds it to y ``(T, out)``, for x ``(T, in)``."""
        found = self._product(x if self._inputs is None else self._inputs.of(x))
        if self._outputs is None:
            y += found
        elif self._once:
            found = torch.cat([found, found.new_zeros(len(y), self._behind)], 1) if self._behind else found
            y += self._outputs.of(found)
        else:
            width = self._outputs.width
            into = y.new_zeros(y.shape[1] // width, len(y) * width)
            into.index_add_(0, self._outputs.strips, found.view(len(y), -1, width).transpose(0, 1).reshape(-1, len(y) * width))
            y += into.view(-1, len(y), width).transpose(0, 1).reshape(len(y), -1)

    def _product(self, x: Tensor) -> Tensor:
        """``(T, outputs)``, group after group, of the gathered inputs, which stand so too."""
        sizes = [weight.shape[0] * weight.shape[1] for weight in self._weights]
        found = []
        for weight, own in zip(self._weights, x.split(sizes, 1), strict=True):
            if len(weight) == 1:
                found.append(own @ weight[0])
            else:
                groups = own.view(len(x), len(weight), -1).transpose(0, 1)
                found.append(torch.bmm(groups, weight).transpose(0, 1).reshape(len(x), -1))
        return found[0] if len(found) == 1 else torch.cat(found, 1)


class Strips:
    """Strips of features, each so many of them in a row.

    Args:
        strips: their numbers.
        width: how many features each has.
    """

    def __init__(self, strips: Tensor, width: int):
        self.strips, self.width = strips, width

    def of(self, x: Tensor) -> Tensor:
        """These features of x ``(T, features)``."""
        return x.view(len(x), -1, self.width).index_select(1, self.strips).view(len(x), -1)


def _of_lines(entries: Entries, change: Tensor) -> tuple[list[Tensor], tuple[Strips | None, Strips | None]]:
    lines = Strips(entries.index.long(), 1)
    return [change[None]], (lines, None) if entries.kind == "rows" else (None, lines)


def _of_blocks(entries: Entries, change: Tensor) -> tuple[list[Tensor], tuple[Strips | None, Strips | None]]:
    """``(G, rows, columns)`` of the groups of each shape, and the strips of rows and of columns, group after group."""
    index, (height, width) = entries.index.long(), change.shape[1:]
    grid = entries.shape[1] // width
    alone = Groups((Shape(len(index), 1, 1),), index // grid, index % grid, index, torch.arange(len(index), device=index.device))
    groups = groups_of(entries._held, entries.layout) or alone
    stacked = torch.empty_like(change)
    stacked[groups.order] = change
    blocks = stacked.split([count * tall * wide for count, tall, wide in groups.shapes])
    weights = [
        some.view(count, tall, wide, height, width).transpose(2, 3).reshape(count, tall * height, wide * width)
        for some, (count, tall, wide) in zip(blocks, groups.shapes, strict=True)
    ]
    return weights, (Strips(groups.rows, height), Strips(groups.columns, width))
