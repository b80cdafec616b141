"""`Training.shares` as numbers."""

from __future__ import annotations

import math

from ..errors import require


def parsed(shares: str) -> list[float]:
    """Raises ValueError for what is no list of shares."""
    try:
        found = [float(share) for share in shares.split(",")] if shares else []
    except ValueError:
        found = [math.nan]
    require(all(0 < share <= 1 for share in found), "train", "shares", "numbers in (0, 1], separated by commas", repr(shares))
    return found
