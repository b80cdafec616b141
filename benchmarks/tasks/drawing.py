"""Rows drawn from a part of the data."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping


def drawn(rows: list[dict], size: int | None, seed: str, cover: bool = False) -> list[dict]:
    """`size` rows in an order drawn with `seed`; with `cover`, rows with labels not seen before come first."""
    rows = list(rows)
    random.Random(seed).shuffle(rows)
    if size is None or size >= len(rows):
        return rows
    if cover:
        seen: set[str] = set()
        first, rest = [], []
        for row in rows:
            (rest if labels_of([row]) <= seen else first).append(row)
            seen |= labels_of([row])
        if len(first) > size:
            raise ValueError(f"tasks: the train size of {seed} must be at least {len(first)}, to show every label, got {size}")
        rows = first + rest
    return rows[:size]


def labels_of(rows: Iterable[Mapping]) -> set[str]:
    return {label for row in rows for label in ([row["label"]] if "label" in row else row["tags"])}
