"""The matrix library's product, as every other module here calls it."""

from __future__ import annotations

import torch
from torch import Tensor

from ..padding import BYTES
from ..reference.gradients import accumulator
from ..registry import bfloat16_products

FEW = 4  # rows or columns up to which torch's bfloat16 products are no faster than float32's


def product(a: Tensor, b: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """a @ b, or a batch of them, of which sums are rounded once, to `dtype`; by default float32, or float64 for float64."""
    wide = accumulator(a.dtype)
    dtype = dtype or wide
    if a.dtype == wide:
        return (a @ b).to(dtype)
    if a.is_cuda:
        return (torch.mm if a.ndim == 2 else torch.bmm)(a, b, out_dtype=wide).to(dtype)
    in_bfloat16 = a.dtype == dtype == torch.bfloat16 and a.ndim == 2 and min(a.shape[0], b.shape[1]) > FEW
    if in_bfloat16 and bfloat16_products():
        return a @ b  # whose sums are float32: twice as fast
    return (a.to(wide) @ b.to(wide)).to(dtype)


def lanes(operand: Tensor) -> int:
    """To a multiple of how many columns 16-bit operands must be padded on CUDA: else its library takes narrower reads."""
    return BYTES // operand.itemsize if operand.is_cuda and operand.itemsize == 2 else 1
