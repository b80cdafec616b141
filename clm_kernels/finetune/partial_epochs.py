"""What is told of each epoch, over a run whose last epoch may be a part of one."""

from __future__ import annotations

from collections.abc import Sequence


def lengths(lines: int, epochs: float) -> list[float]:
    """Of each of so many epochs, which part of one it is: 1, but of the last; all 1 where it is not known how many `epochs` these are."""
    return [max(0.0, min(1.0, epochs - i)) if epochs else 1.0 for i in range(lines)]


def mean_share(shares: Sequence[float], epochs: float) -> float:
    """Of a share of each epoch the mean over a run, each epoch by its length."""
    long = lengths(len(shares), epochs)
    return sum(share * size for share, size in zip(shares, long)) / sum(long)


def part_of_full(flops: Sequence[float], epochs: float) -> float:
    """Of what `Report.spent` or `planned` has of each epoch, the part of full fine-tuning on these epochs."""
    return sum(flops) / sum(lengths(len(flops), epochs))
