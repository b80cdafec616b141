"""Compact gradients of single elements: one dot product over the tokens for each.

It reads 2 T operands an element, so it is for few elements; of many, nearly every tile of the dense gradient holds one,
and the matrix units make whole tiles faster.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..padding import padded
from .narrow import narrow

ELEMENTS, TOKENS = 16, 128  # of one step of a program


@triton.jit
def sampled_product(
    dy, x, index, out, active_count, count, tokens, columns, dy_stride, x_stride, SIZE: tl.constexpr, STEP: tl.constexpr
):  # fmt: skip
    """``out[e] = sum over t of dy[i, t] * x[j, t]`` for the elements (i, j) of one program; neighbours share their row i."""
    e = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    place = tl.load(index + e, mask=e < count, other=0)
    row, column = dy + (place // columns).to(tl.int64) * dy_stride, x + (place % columns).to(tl.int64) * x_stride
    sums = tl.zeros((SIZE, STEP), dtype=tl.float32)
    last = tokens
    if active_count is not None:
        last = tl.minimum(tl.load(active_count), tokens).to(tl.int32)
    for begin in range(0, last, STEP):
        t = begin + tl.arange(0, STEP)
        mask = (e < count)[:, None] & (t < tokens)[None, :]
        a = tl.load(row[:, None] + t[None, :], mask=mask, other=0.0).to(tl.float32)
        sums += a * tl.load(column[:, None] + t[None, :], mask=mask, other=0.0).to(tl.float32)
    tl.store(out + e, narrow(tl.sum(sums, 1), out.dtype.element_ty), mask=e < count)


def sampled(
    dy: Tensor, x: Tensor, index: Tensor, columns: int, compact: Tensor, active: Tensor | None, active_count: Tensor | None
) -> Tensor:  # fmt: skip
    """Fills `compact`, ``(nnz,)``; dy ``(T, out)`` and x ``(T, in)`` are transposed first, so that tokens lie side by side.

    After the last token, or the last that is `active`, come zeros, up to a number of tokens that Triton reads 16 bytes at a time.
    """
    if active is not None:
        dy, x = (active_first(operand, active, active_count) for operand in (dy, x))
    dy, x = padded(dy.T, TOKENS), padded(x.T, TOKENS)
    count, tokens = index.numel(), dy.shape[1]
    with torch.cuda.device_of(dy):
        sampled_product[(triton.cdiv(count, ELEMENTS),)](
            dy, x, index, compact, active_count, count, tokens, columns, dy.stride(0), x.stride(0), SIZE=ELEMENTS, STEP=TOKENS
        )
    return compact


def active_first(operand: Tensor, active: Tensor, active_count: Tensor) -> Tensor:
    """``(T, n)``: the rows of active tokens, side by side, then zeros."""
    tokens = operand.shape[0]
    there = (active >= 0) & (active < tokens) & (torch.arange(tokens, device=active.device) < active_count)
    return operand.index_select(0, active.where(there, 0)).masked_fill_(~there[:, None], 0)
