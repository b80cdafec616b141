"""Active tokens, as the ops that take them say: which rows of ``dy`` a backward keeps."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

NORM_TOP = 1 << 18  # the largest norm where tokens are drawn by it: squares of 2^23 tokens add up within int64
TOP = 1 << 30  # what the token with the largest gradient holds; the sum over 2^23 tokens is still exact in float64


class Tokens(NamedTuple):
    """Active tokens of a batch, on its device: how many there are is known there, and no host waits for it.

    Attributes:
        index: ``(T,)`` int64, ascending; from `count` on it holds T.
        count: 0-dim int64.
    """

    index: Tensor
    count: Tensor


class Drawn(NamedTuple):
    """Active tokens that were drawn by chance, on the batch's device.

    Attributes:
        index, count: as of `Tokens`.
        weight: ``(T,)`` float32, 1 over the chance that a token had; 0 for one that is not active.
    """

    index: Tensor
    count: Tensor
    weight: Tensor

    @property
    def tokens(self) -> Tokens:
        return Tokens(self.index, self.count)


def weighed(dy: Tensor, drawn: Drawn) -> Tensor:
    """A gradient whose active rows have their weights in them; on a CPU its other rows hold anything.

    Args:
        dy: ``(T, out)``.
        drawn: as `drawn_tokens` gives them of it.

    Returns:
        ``(T, out)``, of dy's dtype.
    """
    if dy.device.type != "cpu" or torch.compiler.is_compiling():
        return dy * drawn.weight[:, None].to(dy.dtype)
    active = drawn.index[: int(drawn.count)]
    rows = dy.index_select(0, active) * drawn.weight.index_select(0, active)[:, None].to(dy.dtype)
    return torch.empty_like(dy, memory_format=torch.contiguous_format).index_copy_(0, active, rows)
