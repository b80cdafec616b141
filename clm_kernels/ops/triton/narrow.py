"""Rounding of sums to the type in which they are stored."""

import triton
import triton.language as tl

from ..registry import INTERPRETED

CUTS_BFLOAT16 = tl.constexpr(INTERPRETED)  # Triton's interpreter does, where a GPU rounds to the nearest


@triton.jit
def narrow(x, dtype: tl.constexpr):
    """x in `dtype`, rounded to the nearest, ties to even."""
    if CUTS_BFLOAT16 and dtype == tl.bfloat16:
        bits = x.to(tl.uint32, bitcast=True)
        nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16
        x = tl.where(x == x, nearest, bits).to(tl.float32, bitcast=True)
    return x.to(dtype)
