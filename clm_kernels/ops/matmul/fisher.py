"""Squared norms of gradients' rows or columns: Gram matrices, and their products, by the matrix library."""

from __future__ import annotations

from torch import Tensor

from ..padding import padded
from ..reference.gradients import accumulator
from .product import lanes, product


def sensitivity(dy: Tensor, x: Tensor, kind: str, weights: Tensor | None = None) -> Tensor:
    units, others = (dy, x) if kind == "rows" else (x, dy)
    gram = gram_matrices(others, weights)
    units = units.to(gram.dtype)  # a Gram matrix rounded to 16 bits would cost three digits
    return (gram @ units).mul_(units).sum((0, 1))


def gram_matrices(operand: Tensor, weights: Tensor | None) -> Tensor:
    """``(B, T, T)``, not rounded: of ``(B, T, n)``, each position multiplied by its weight."""
    if not operand.is_cuda:
        operand = operand.to(accumulator(operand.dtype))  # once, where `product` would do it to both factors
    operand = padded(operand, lanes(operand))  # with zeros, which add nothing
    gram = product(operand, operand.mT)
    if weights is not None:
        weights = weights.to(gram.dtype)
        gram.mul_(weights[:, :, None] * weights[:, None, :])
    return gram
