"""`Training.shares` as numbers."""

from __future__ import annotations

import math

from ..defaults import LEAST_SHARE
from ..errors import require


def parsed(shares: str) -> list[float]:
    """Raises ValueError for what is no list of shares."""
    try:
        found = [float(share) for share in shares.split(",")] if shares else []
    except ValueError:
        found = [math.nan]
    expected = f"numbers from {LEAST_SHARE} to 1, separated by commas"
    require(all(LEAST_SHARE <= share <= 1 for share in found), "train", "shares", expected, repr(shares))
    return found
