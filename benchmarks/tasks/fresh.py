"""Rows that no choice has seen: `train`'s defaults were set with the scores of the rows that a grid draws without this."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .drawing import drawn

Rows = dict[str, list[dict[str, Any]]]


def fresh(rows: Rows, sizes: Mapping[str, int | None], task: str, seed: int) -> Rows:
    """Training rows of their own for each seed, and the same validation and test rows for all, none of them used before.

    A part that has less than half as many unused rows as asked for takes what train has left over, which no seed then trains on; where train has too few
    as well, it is drawn anew from all its rows, used or not.

    Args:
        rows: every row of train, validation and test.
        sizes: how many of each part.
    """
    used = {_key(row) for part in rows for row in drawn(rows[part], sizes[part], task, cover=part == "train")}
    left = {part: [row for row in rows[part] if _key(row) not in used] for part in rows}
    made: Rows = {}
    for part in ("test", "validation"):
        size = sizes[part] or len(rows[part])
        spare = len(left["train"]) - (sizes["train"] or 0)
        source = part if 2 * len(left[part]) >= min(size, len(rows[part])) else "train" if spare >= size else ""
        made[part] = drawn(left[source] if source else rows[part], size, f"{task} {part}")
        taken = {_key(row) for row in made[part]}
        left["train"] = [row for row in left["train"] if _key(row) not in taken]
    enough = len(left["train"]) >= (sizes["train"] or len(rows["train"]))
    made["train"] = drawn(left["train"] if enough else rows["train"], sizes["train"], f"{task} {seed}", cover=True)
    return made


def _key(row: Mapping[str, Any]) -> str:
    return json.dumps(row, sort_keys=True)
