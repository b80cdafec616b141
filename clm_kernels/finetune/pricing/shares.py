"""The share of each epoch of a run within minutes: found by the clock, or as it was found before."""

from __future__ import annotations

import time
from collections.abc import Callable

from ..given_shares import parsed
from .plan import KEPT, Load, Speed, largest_share, seconds_of_epoch, seconds_of_rest

Shares = Callable[[int, float], float | None]  # of an epoch that begins and the share of the one before; None: as it is


class Kept:
    """Before each epoch but the first, the share with which the rest ends in time, if it takes as much longer as the last one did.

    Args:
        minutes: of the whole run.
        began: what `time.perf_counter` said when it began.
    """

    def __init__(self, minutes: float, began: float, epochs: float, speed: Speed, load: Load):
        self.end, self.epochs, self.speed, self.load = began + minutes * 60 * (1 - KEPT), epochs, speed, load
        self.last = 0.0

    def __call__(self, epoch: int, share: float) -> float | None:
        before, self.last = self.last, time.perf_counter()
        if not epoch:
            return None
        slower = (self.last - before) / seconds_of_epoch(epoch == 1, share, self.speed, self.load)
        left = (self.end - self.last) / slower
        return largest_share(left, lambda share: seconds_of_rest(self.epochs - epoch, share, self.speed, self.load))


def as_found(shares: str) -> Shares:
    """What `Training.shares` says: of the second epoch, the third, and so on; those after the last keep that one."""
    known = parsed(shares)
    return lambda epoch, share: known[epoch - 1] if 0 < epoch <= len(known) else None
