"""Squared norms of the rows or columns of each example's weight gradient, which itself is never built."""

from __future__ import annotations

from torch import Tensor

from .gradients import accumulator


def sensitivity(dy: Tensor, x: Tensor, kind: str, weights: Tensor | None = None) -> Tensor:
    """``diag(dy.T (x x.T) dy)`` for rows, ``diag(x.T (dy dy.T) x)`` for columns, summed over the examples."""
    wide = accumulator(dy.dtype)
    units, others = (dy.to(wide), x.to(wide)) if kind == "rows" else (x.to(wide), dy.to(wide))
    if weights is not None:
        others = others * weights[..., None].to(wide)
    gram = others @ others.mT  # (B, T, T)
    return ((gram @ units) * units).sum((0, 1))
