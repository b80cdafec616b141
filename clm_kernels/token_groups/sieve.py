"""Holds back runs that are too rare to be worth a count of their own."""

from __future__ import annotations

LARGEST = 2**26  # bytes; two for each run of a million texts of ten words


class Sieve:
    """Counts runs by their hash, one byte each: who shares it counts too, so that no frequent run is held back.

    After Park, Chen & Yu, "An effective hash-based algorithm for mining association rules", SIGMOD 1995.

    Args:
        minimum: how often a run must be seen to pass.
        runs: how many are to come, about.
    """

    def __init__(self, minimum: int, runs: int):
        size = min(LARGEST, 1 << (2 * runs).bit_length())
        self._seen, self._last, self._enough = bytearray(size), size - 1, min(minimum, 255)

    def add(self, run: tuple[int, ...], times: int = 1) -> None:
        """Sees a run."""
        slot = hash(run) & self._last
        seen = self._seen[slot] + times
        self._seen[slot] = seen if seen < self._enough else self._enough

    def __contains__(self, run: tuple[int, ...]) -> bool:
        return self._seen[hash(run) & self._last] >= self._enough
