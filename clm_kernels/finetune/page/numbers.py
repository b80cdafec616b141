"""Numbers as people read them."""

from __future__ import annotations

from collections.abc import Sequence


def percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f}\u00a0%"  # which no line ends in


def title(score: str) -> str:
    """The name of a score, as it stands in a sentence."""
    return {"f1": "F1 of spans"}.get(score, score.replace("_", " ").replace("f1", "F1"))


def first_letter(text: str) -> str:
    """With a capital."""
    return text[:1].upper() + text[1:]


def time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f}\u00a0s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}\u00a0min {rest}\u00a0s" if minutes < 60 else f"{minutes // 60}\u00a0h {minutes % 60}\u00a0min"


def seconds_in_short(seconds: float) -> str:
    """Where the unit stands beside it."""
    return f"{seconds:,.0f}" if seconds >= 100 else f"{seconds:.3g}"


def size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def short(count: float) -> str:
    """A large number with its unit: 22.7 million."""
    for scale, unit in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count:,.0f}"


def spread(count: int, most: int) -> Sequence[int]:
    """Which of `count` lines are shown where there is room for `most`: spread evenly, the last among them."""
    return range(count) if count <= most else sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})
