"""How texts of several lengths are put into fewer rows than there are texts: which text stands where."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

LONGEST = 8  # times the longest text, up to which rows are tried


class Price(NamedTuple):
    """What a row of C tokens costs: C (token + C pair).

    Attributes:
        token: of one token in all linear layers.
        pair: of one query and one key in all attentions.
    """

    token: float
    pair: float

    def of(self, rows: int, capacity: int) -> float:
        return rows * capacity * (self.token + self.pair * capacity)


class Rows:
    """Where the tokens of a padded batch ``(B, T)`` stand in packed rows ``(R, C)``, and how to move them.

    Args:
        lengths: real tokens of each text, which stand at its left.
        width: T.
        rows: of each row, which texts stand in it, in order.
        device: that of the batch.

    Attributes:
        shape: ``(R, C)``.
        text: ``(R, C)``, which text each place holds; -1 where it holds none.
    """

    def __init__(self, lengths: Sequence[int], width: int, rows: Sequence[Sequence[int]], device: torch.device):
        self.padded = len(lengths), width
        self.shape = len(rows), max(sum(lengths[i] for i in row) for row in rows)
        texts = [(i, r) for r, row in enumerate(rows) for i in row]
        count = torch.tensor([lengths[i] for i, _ in texts])
        number, row = torch.tensor(texts).repeat_interleave(count, 0).unbind(1)
        before = count.cumsum(0) - count  # tokens of all texts that came earlier, in all rows
        token = torch.arange(int(count.sum())) - before.repeat_interleave(count)
        begins = torch.tensor([sum(lengths[i] for i in row[:place]) for row in rows for place in range(len(row))])
        place = row * self.shape[1] + begins.repeat_interleave(count) + token
        self.text = torch.full((math.prod(self.shape),), -1).index_copy(0, place, number).view(self.shape).to(device)
        self._from, self._to = (number * width + token).to(device), place.to(device)

    def pack(self, padded: Tensor, empty: int) -> Tensor:
        """``(B, T)`` as ``(R, C)``, with `empty` where no text is."""
        packed = padded.new_full((math.prod(self.shape),), empty)
        return packed.index_copy_(0, self._to, padded.flatten()[self._from]).view(self.shape)

    def unpack(self, packed: Tensor) -> Tensor:
        """``(R, C, H)`` as ``(B, T, H)``, with zeros at the padding."""
        real = packed.flatten(0, 1).index_select(0, self._to)
        return real.new_zeros(math.prod(self.padded), real.shape[-1]).index_copy_(0, self._from, real).view(*self.padded, -1)

    def mask(self, causal: bool) -> Tensor:
        """``(R, 1, C, C)``, true where a query may see a key: one of its own text, and none that comes later if `causal`."""
        seen = self.text[:, None, :, None] == self.text[:, None, None, :]
        return seen.tril() if causal else seen


def arranged(lengths: Sequence[int], width: int, price: Price) -> list[list[int]] | None:
    """Which texts share a row, where that costs least; None where it does not cost less than padding to `width`.

    For each number of rows that comes into question the texts are dealt out, longest first, each to the row that holds least:
    so all rows come out about as long, and the longest of them is the capacity. Of 500 to 9,000 texts of banking77 and
    snips_slots in batches of 16 and 64 that leaves 0.4 to 2.6 % padding, where first-fit decreasing into rows of once, twice …
    the longest text leaves 1.7 to 6.2 %.
    """
    total, longest = sum(lengths), max(lengths, default=0)
    if not total:
        return None
    counts = {math.ceil(total / (times * longest)) for times in range(1, LONGEST + 1)}
    found = [dealt(lengths, count) for count in sorted(counts, reverse=True)]
    costs = [price.of(len(rows), max(sum(lengths[i] for i in row) for row in rows)) for rows in found]
    least = min(costs)
    return found[costs.index(least)] if least < price.of(len(lengths), width) else None


def dealt(lengths: Sequence[int], count: int) -> list[list[int]]:
    """The texts in so many rows, longest first, each in the row that holds least; texts without a token in none."""
    rows: list[list[int]] = [[] for _ in range(count)]
    loads = [(0, r) for r in range(count)]
    for i in sorted((i for i, length in enumerate(lengths) if length), key=lambda i: -lengths[i]):
        load, r = loads[0]
        rows[r].append(i)
        heapq.heapreplace(loads, (load + lengths[i], r))
    return rows
