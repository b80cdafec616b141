"""Findings as lines for people: what files hold is escaped before a terminal sees it."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from pathlib import PurePath
from typing import Any

from ...escaping import visible
from ..parts import called
from .checked import Checked
from .finding import Finding, Place


def placed(places: Iterable[Place]) -> str:
    """``train.jsonl line 3, line 8; test.jsonl line 1``; files of the same name keep their folders."""
    places = list(places)
    names = {place.file: PurePath(place.file).name for place in places}
    unique = len(set(names.values())) == len(names)
    by_file = groupby(places, key=lambda place: place.file)
    return "; ".join(f"{names[file] if unique else file} {', '.join(place.where for place in group)}" for file, group in by_file)


def percent(share: float) -> str:
    """A share, with as many places as a small one needs."""
    return f"{share:.1%}" if share >= 0.001 or not share else "<0.1%"


def one_line(checked: Checked) -> str | None:
    """The worst finding, if it is worse than a note."""
    found = [finding for finding in checked.findings if finding.severity != "note"]
    return _line(found[0], len(found) - 1) if found else None


def left_out_line(record: dict[str, Any]) -> str | None:
    """What `train --skip-bad-rows` left out, by a run's record of its data."""
    parts = {name: part["left_out"] for name, part in record.items() if isinstance(part, dict) and part.get("left_out")}
    said = [
        f"{left['rows']:,} of {called(record[name]['path'])} ({', '.join(left['first'])}{', …' * (left['rows'] > len(left['first']))})"
        for name, left in parts.items()
        if left["rows"]
    ]
    return visible(f"rows left out, as they cannot be read: {'; '.join(said)}; scores are of the others") if said else None


def _line(finding: Finding, others: int) -> str:
    where = f", first {placed(finding.places[:1])}" if finding.places else ""
    more = f"; {others} more" if others else ""
    said = f"{finding.count:,} of {finding.of:,} {finding.said}"
    return visible(f"data: {finding.severity}: {said}{where}{more} (`clm-kernels check`)")
