"""Squared norms of gradients' rows or columns: a product with Gram matrices of which only the sums are ever written."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..matmul.fisher import gram_matrices
from ..padding import padded
from ..registry import INTERPRETED
from .gradients import LANES, precision
from .narrow import narrow

WARPS = 4


@triton.jit
def quadratic_forms(
    gram, units, out, tokens, size, gram_stride, width, batch_stride, token_stride,
    SPLIT: tl.constexpr, WIDEN: tl.constexpr, PRECISION: tl.constexpr,
    TOKENS: tl.constexpr, UNITS: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """``out[tile, j] = sum over t and s of units[t, j] * gram[t, s] * units[s, j]``, for one tile of one example's tokens t.

    A Gram matrix is symmetric: tiles above its diagonal are not read, those below it count twice. To multiply it in
    bfloat16, `SPLIT` takes it as a sum of two such numbers, within 2^-18 of it. `gram_stride` and `width` are tokens and size
    with the zeros that follow them.
    """
    across, tiles = tl.cdiv(size, UNITS), tl.cdiv(tokens, TOKENS)
    program = tl.program_id(0) // across
    example, tile = (program // tiles).to(tl.int64), program % tiles
    t = tile * TOKENS + tl.arange(0, TOKENS)
    j = tl.program_id(0) % across * UNITS + tl.arange(0, UNITS)
    gram += (example * tokens + t[:, None]) * gram_stride
    units += example * batch_stride + j[None, :]

    sums = tl.zeros((TOKENS, UNITS), dtype=tl.float32)
    for begin in range(0, (tile + 1) * TOKENS, STEP):
        s = begin + tl.arange(0, STEP)
        a = tl.load(gram + s[None, :], mask=(t < tokens)[:, None] & (s < gram_stride)[None, :], other=0.0)
        a *= tl.where(begin < tile * TOKENS, 2.0, 1.0)
        there = (s < tokens)[:, None] & (j < width)[None, :]
        b = tl.load(units + s.to(tl.int64)[:, None] * token_stride, mask=there, other=0.0)
        if SPLIT:
            high = narrow(a, b.dtype)
            low = narrow(a - high.to(tl.float32), b.dtype)
            if WIDEN:
                high, low, b = high.to(tl.float32), low.to(tl.float32), b.to(tl.float32)
            sums = tl.dot(low, b, tl.dot(high, b, sums))
        else:
            sums = tl.dot(a, b.to(tl.float32), sums, input_precision=PRECISION)

    there = (t < tokens)[:, None] & (j < width)[None, :]
    mine = tl.load(units + t.to(tl.int64)[:, None] * token_stride, mask=there, other=0.0).to(tl.float32)
    tl.store(out + program.to(tl.int64) * size + j, tl.sum(sums * mine, 0), mask=j < size)


def sensitivity(dy: Tensor, x: Tensor, kind: str, weights: Tensor | None = None) -> Tensor:
    """As `ops.sensitivity`: the vendor's Gram matrices, then one kernel; not for float64."""
    units, others = (dy, x) if kind == "rows" else (x, dy)
    examples, tokens, size = units.shape
    if units.numel() == 0:
        return units.new_zeros(size, dtype=torch.float32)
    gram, units = padded(gram_matrices(others, weights).contiguous(), LANES), padded(units, LANES)
    tile_tokens, tile_units, step = tile_sizes(tokens, size, units.dtype)
    programs = examples * triton.cdiv(tokens, tile_tokens)
    sums = units.new_empty((programs, size), dtype=torch.float32)
    with torch.cuda.device_of(units):
        quadratic_forms[(programs * triton.cdiv(size, tile_units),)](
            gram, units, sums, tokens, size, gram.shape[2], units.shape[2], units.stride(0), units.stride(1),
            SPLIT=units.dtype == torch.bfloat16, WIDEN=INTERPRETED,  # by numpy, which has no bfloat16
            PRECISION=precision(units), TOKENS=tile_tokens, UNITS=tile_units, STEP=step, num_warps=WARPS,
        )  # fmt: skip
    return sums.sum(0)


def tile_sizes(tokens: int, units: int, dtype: torch.dtype) -> tuple[int, int, int]:
    """Tokens and units of a tile, and tokens of one step, which divide the tile's."""
    most_units, most_step = (128, 32) if dtype == torch.bfloat16 else (64, 16)  # the others are multiplied in float32
    tile_tokens, tile_units = (max(16, triton.next_power_of_2(n)) for n in (tokens, units))
    tile_tokens = min(64, tile_tokens)
    return tile_tokens, min(most_units, tile_units), min(most_step, tile_tokens)
