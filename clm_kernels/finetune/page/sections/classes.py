"""How each class fares, the worst first, and what it is most often taken for."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...judging.classes import ClassScore
from ..content import Content, Judgement
from ..markup import NOTHING, Html, bar, joined, named, table, tag
from ..numbers import percent

ROWS, FEW = 300, 14  # shown at most; up to which a table is as long as it is


def told(content: Content) -> Html:
    judged = content.judged
    if judged is None or not judged.classes:
        return NOTHING
    there = [line for line in judged.classes if line.support or line.predicted]
    shown = sorted(there, key=lambda line: (line.f1, -line.support))[:ROWS]
    taken = _taken_for(judged)
    header = [
        "class",
        *(["most often taken for"] if taken else []),
        "F1",
        "",
        "precision",
        "recall",
        "texts" if judged.unit == "texts" else "gold",
    ]
    rows = [_row(line, taken) for line in shown]
    absent = len(judged.classes) - len(there)
    what = (
        "class that is neither right nor given anywhere is"
        if absent == 1
        else "classes that are neither right nor given anywhere are"
    )
    notes = [f"{absent:,} {what} left out. "] if absent else []
    notes += (
        [f"The {ROWS} with the lowest F1 are shown; {len(there) - ROWS:,} more are in classes.csv, which evaluate writes."]
        if len(there) > ROWS
        else []
    )
    summary = tag("p", f"{len(there):,} classes, the lowest F1 first. ", *notes)
    return joined([summary, table(header, rows, "Classes", 2 if taken else 1, "classes" + " tall" * (len(rows) > FEW))])


def _row(line: ClassScore, taken: dict[str, Html]) -> list[Any]:
    found = [taken.get(line.label, "-")] if taken else []
    parts = (percent(line.precision) if line.predicted else "-", percent(line.recall) if line.support else "-")
    return [named(line.label), *found, percent(line.f1), bar(line.f1), *parts, f"{line.support:,}"]


def _taken_for(judged: Judgement) -> dict[str, Html]:
    """Of each label that errs the other that it was given most often; nothing for types of spans."""
    names = judged.label_names
    if judged.matrix is None or [line.label for line in judged.classes] != names:
        return {}
    counts, support = judged.matrix[:, : len(names)].copy(), judged.matrix.sum(1)
    np.fill_diagonal(counts, 0)
    found = {}
    for name, row, of in zip(names, counts, support.tolist(), strict=True):
        if most := int(row.max()):
            found[name] = joined([named(names[int(row.argmax())]), tag("span", f" {most:,} of {of:,}", class_="of")])
    return found
