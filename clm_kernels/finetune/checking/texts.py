"""Findings about texts that stand there twice."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np

from .finding import PLACES, Finding, by_share
from .parts import Part, Seen, as_numbers

HALF = 0.5  # of a part's rows stand in train: its score says nothing of new texts


def overlaps(seen: Seen) -> Iterator[Finding]:
    """Rows of a part whose text stands in an earlier part."""
    for before, part in combinations(seen.parts, 2):
        loose, exact = (np.isin(as_numbers(getattr(part, key)), as_numbers(getattr(before, key))) for key in ("loose", "exact"))
        if count := int(loose.sum()):
            severity = "error" if before.name == "train" and count >= HALF * len(part) else by_share(count, len(part))
            what = f"texts of {part.name} stand in {before.name} ({exact.sum():,} exactly)"
            advice = f"they flatter the score: drop from {before.name}"
            places = part.places(np.flatnonzero(loose).tolist())
            yield Finding(f"overlap-{before.name}-{part.name}", severity, what, count, len(part), tuple(places), advice)


def contradictions(seen: Seen) -> Iterator[Finding]:
    """The same text with several labels, in whatever parts."""
    texts = np.concatenate([as_numbers(part.exact) for part in seen.parts])
    answers = np.concatenate([as_numbers(part.answers) for part in seen.parts])
    differs = _differing(texts, answers)
    if count := int(differs.sum()):
        places = [place for part, rows in _by_part(seen, differs) for place in part.places(rows)]
        what = "rows have a text that has another label elsewhere"
        advice = "decide for one label"
        yield Finding("contradiction", by_share(count, len(texts)), what, count, len(texts), tuple(places[:PLACES]), advice)


def duplicates(seen: Seen) -> Iterator[Finding]:
    """Rows whose text stands earlier in the same part."""
    for part in seen.parts:
        loose, exact = (_repeated(as_numbers(getattr(part, key))) for key in ("loose", "exact"))
        if count := int(loose.sum()):
            what = f"texts of {part.name} repeat one before ({exact.sum():,} exactly)"
            advice = "keep one of each"
            places = part.places(np.flatnonzero(loose).tolist())
            yield Finding(f"duplicates-{part.name}", by_share(count, len(part)), what, count, len(part), tuple(places), advice)


def _repeated(keys: np.ndarray) -> np.ndarray:
    """For each row whether its key stands before."""
    order = np.argsort(keys, kind="stable")
    found = np.zeros(len(keys), bool)
    found[order[1:]] = keys[order[1:]] == keys[order[:-1]]
    return found


def _differing(keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """For each row whether another one has its key and another value."""
    order = np.lexsort((values, keys))
    keys, values = keys[order], values[order]
    starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
    ends = np.r_[starts[1:], len(keys)]
    found = np.zeros(len(order), bool)
    found[order] = np.repeat(values[starts] != values[ends - 1], ends - starts)
    return found


def _by_part(seen: Seen, rows: np.ndarray) -> Iterator[tuple[Part, list[int]]]:
    starts = np.cumsum([0, *map(len, seen.parts)])
    for part, start, end in zip(seen.parts, starts, starts[1:]):
        yield part, np.flatnonzero(rows[start:end]).tolist()
