"""Operands ``(..., T, n)`` as a GPU reads them fastest: 16 bytes at a time, which takes rows that begin at such addresses."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

BYTES = 16


def padded(operand: Tensor, multiple: int) -> Tensor:
    """The operand itself if its rows lie a multiple of so many elements apart, else a copy with zeros after its columns."""
    if short := -operand.shape[-1] % multiple:
        return F.pad(operand, (0, short))
    apart = all(stride % multiple == 0 for stride in operand.stride()[:-1])
    if multiple == 1 or (operand.stride(-1) == 1 and apart and operand.data_ptr() % BYTES == 0):
        return operand
    return operand.new_empty(operand.shape).copy_(operand)


def picked(operand: Tensor, index: Tensor, multiple: int) -> Tensor:
    """Selected columns of ``(T, n)``, side by side, and others after them up to a multiple of so many."""
    short = -index.numel() % multiple
    return operand.index_select(1, F.pad(index, (0, short)) if short else index)
