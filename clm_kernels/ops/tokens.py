"""Active tokens, as the ops that take them say: which rows of ``dy`` a backward keeps."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

TOP = 1 << 30  # what the token with the largest gradient holds; the sum over 2^23 tokens is still exact in float64


class Tokens(NamedTuple):
    """Active tokens of a batch, on its device: how many there are is known there, and no host waits for it.

    Attributes:
        index: ``(T,)`` int64, ascending; from `count` on it holds T.
        count: 0-dim int64.
    """

    index: Tensor
    count: Tensor
