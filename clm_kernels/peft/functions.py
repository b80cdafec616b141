"""Autograd of adapted layers: the weight that is used is made anew in the backward, the gradients are compact."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .. import ops
from ..ops.layout import COLUMNS, ROWS
from ..ops.schemas import direct
from ..selection import Entries


class Use(NamedTuple):
    """How a layer uses its weight in one forward.

    Attributes:
        entries: of each active adapter.
        transposed: whether the weight is stored ``(in, out)``.
        dtype: that autocast asks for, if any.
    """

    entries: Sequence[Entries]
    transposed: bool
    dtype: torch.dtype | None


def written(weight: Tensor, entries: Sequence[Entries], values: Sequence[Tensor]) -> Tensor:
    """A copy of the weight with each adapter's values in it; where several meet, with the sum of what they change."""
    copied = weight.detach().clone()
    for number, (own, new) in enumerate(zip(entries, values, strict=True)):
        if number:
            new = added(ops.gather(copied, own), ops.gather(weight.detach(), own), new)
        ops.scatter_(copied, own, new.detach().to(copied.dtype))
    return copied


def added(now: Tensor, base: Tensor, values: Tensor) -> Tensor:
    """``now + values - base`` in at least float32, and the values themselves, to the bit, where `now` is the base still."""
    wide = torch.promote_types(now.dtype, torch.float32)
    change = values.detach().to(wide) - base.to(wide)
    return torch.where(now == base, values.detach().to(now.dtype), (now.to(wide) + change).to(now.dtype))


class AdaptedLinear(torch.autograd.Function):
    """``y = x @ written(weight).T + bias``, ``(T, out)``, whose backward makes the gradients of x, the bias and each adapter's values.

    The written weight is not kept: the backward writes it again.
    """

    @staticmethod
    def forward(ctx, use: Use, x: Tensor, weight: Tensor, bias: Tensor | None, *values: Tensor):
        tokens = x.reshape(-1, x.shape[-1])  # (T, in)
        sliced = ROWS if use.transposed else COLUMNS
        kept = [
            tokens.index_select(1, entries._held.long()) if entries.layout.kind == sliced else tokens
            for entries, needed in zip(use.entries, ctx.needs_input_grad[4:], strict=True)
            if needed
        ]
        ctx.save_for_backward(weight, *values, *kept)
        ctx.use, ctx.x_shape = use, x.shape
        return F.linear(tokens, _used(weight, use, values), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor):
        use, count = ctx.use, len(ctx.use.entries)
        weight, *saved = ctx.saved_tensors
        values, kept = saved[:count], iter(saved[count:])
        dx = dbias = None
        if ctx.needs_input_grad[1]:
            dx = (dy @ _used(weight, use, values)).view(ctx.x_shape)
        if ctx.needs_input_grad[3]:
            dbias = dy.sum(0)
        grads = [
            _gradient(dy, next(kept), entries, own.dtype, use.transposed) if needed else None
            for entries, own, needed in zip(use.entries, values, ctx.needs_input_grad[4:], strict=True)
        ]
        return None, dx, None, dbias, *grads


def _used(weight: Tensor, use: Use, values: Sequence[Tensor]) -> Tensor:
    copied = written(weight, use.entries, values)
    copied = copied if use.dtype is None else copied.to(use.dtype)
    return copied.T if use.transposed else copied  # (out, in)


def _gradient(dy: Tensor, kept: Tensor, entries: Entries, dtype: torch.dtype, transposed: bool) -> Tensor:
    operands = (kept, dy) if transposed else (dy, kept)
    return direct("weight_grad", dy)(*(each.contiguous() for each in operands), entries._held, entries.layout, dtype)


class AdaptedEmbedding(torch.autograd.Function):
    """``written(weight)[ids]``, ``(T, H)``, without a copy of the weight: the rows that are values are put in their places."""

    @staticmethod
    def forward(ctx, entries: Sequence[Entries], ids: Tensor, weight: Tensor, padding_idx: int | None, *values: Tensor):
        flat = ids.flatten()
        base = F.embedding(flat, weight)
        y = base
        for own, new in zip(entries, values, strict=True):
            if own._held.numel():
                place = torch.searchsorted(own._held, flat.to(own._held.dtype)).clamp_max(own._held.numel() - 1)
                hit = (own._held[place] == flat)[:, None]
                y = torch.where(hit, added(y, base, new[place]), y)
        ctx.save_for_backward(flat if padding_idx is None else flat.masked_fill(flat == padding_idx, -1))
        ctx.entries, ctx.dtypes = entries, [new.dtype for new in values]
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor):
        (ids,) = ctx.saved_tensors
        grads = [
            direct("embedding_grad", dy)(dy.contiguous(), ids, own._held, own.layout, dtype) if needed else None
            for own, dtype, needed in zip(ctx.entries, ctx.dtypes, ctx.needs_input_grad[4:], strict=True)
        ]
        return None, None, None, None, *grads
