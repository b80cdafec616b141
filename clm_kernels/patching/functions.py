"""Autograd of patched layers: the forward is torch's own, the backward makes compact gradients only.

Outputs are ``(T, out)``, to be viewed by the caller: autograd lets nobody write in place into a view that was made
inside a custom function, as ``nn.ReLU(inplace=True)`` after a linear layer does.

The index is no saved tensor: those are handed to hooks, and to whoever asks the graph, and either might write there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..ops.layout import COLUMNS, ROWS, Layout
from ..ops.schemas import direct

if TYPE_CHECKING:
    from .active import Active


class LinearFunction(torch.autograd.Function):
    """``y = x @ weight.T + bias`` of a frozen `weight` ``(out, in)`` whose selected entries' gradient goes to `values`, if any.

    The entries are those of `weight`, or, where it is `transposed`, of the ``(in, out)`` tensor that it is a view of: that
    one's gradient is ``x.T @ dy``, the same op with its operands exchanged. Of x only the selected input features are kept
    for the backward, where a selected unit is one. Where tokens are `active`, the gradients of x and of the values are those of
    these tokens alone; that of the bias is whole. Where they are known already, of x theirs alone is kept.
    """

    @staticmethod
    def forward(
        ctx, x: Tensor, weight: Tensor, bias: Tensor | None, values: Tensor | None, index: Tensor | None, layout: Layout | None,
        transposed: bool, active: Active | None,
    ):  # fmt: skip
        tokens = x.reshape(-1, x.shape[-1])  # (T, in)
        kept, known = None, None if active is None else active.known(tokens.shape[0])
        if values is not None:
            kept = tokens if known is None else tokens.index_select(0, known.own)
            kept = kept.index_select(1, index) if layout.kind == (ROWS if transposed else COLUMNS) else kept
            ctx.dtype = values.dtype
        ctx.save_for_backward(kept, weight if ctx.needs_input_grad[0] else None)
        ctx._index, ctx._layout, ctx.x_shape, ctx.transposed = index, layout, x.shape, transposed
        ctx.active, ctx.known = active, known
        return F.linear(tokens, weight, bias)  # (T, out)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor):
        kept, weight = ctx.saved_tensors
        dx = dbias = dvalues = None
        if ctx.needs_input_grad[2]:
            dbias = dy.sum(0)
        known = ctx.known
        if known is not None:
            ctx.active.note(dy.shape[0], known.count)
            *tokens, rows = known.index, known.count, dy
        else:
            *tokens, rows = (dy,) if ctx.active is None else ctx.active.choose(dy)
        if ctx.needs_input_grad[0]:
            dx = (direct("input_grad", dy)(rows, weight, *tokens) if tokens else dy @ weight).view(ctx.x_shape)
        if ctx.needs_input_grad[3]:
            if known is not None:  # of the others nothing is kept
                rows, tokens = rows.index_select(0, known.own), []
            operands = (kept, rows) if ctx.transposed else (rows, kept)
            dvalues = direct("weight_grad", dy)(*operands, ctx._index, ctx._layout, ctx.dtype, *tokens)
        return dx, None, dbias, dvalues, None, None, None, None


class EmbeddingFunction(torch.autograd.Function):
    """``weight[ids]`` of a frozen `weight`; the selected rows' gradient goes to `values`."""

    @staticmethod
    def forward(ctx, ids: Tensor, weight: Tensor, values: Tensor, index: Tensor, layout: Layout, padding_idx: int | None):
        ids = ids.flatten()  # (T,)
        ctx.save_for_backward(ids if padding_idx is None else ids.masked_fill(ids == padding_idx, -1))
        ctx._index, ctx._layout, ctx.dtype = index, layout, values.dtype
        return F.embedding(ids, weight)  # (T, H)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor):
        (ids,) = ctx.saved_tensors
        return None, None, direct("embedding_grad", dy)(dy, ids, ctx._index, ctx._layout, ctx.dtype), None, None, None
