"""`Finding`: one thing that was found in the data, how bad it is, where, and what to do."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, NamedTuple

SEVERITIES = ("error", "warning", "note")  # train refuses it or a score means nothing; it costs or flatters; good to know
MANY = 0.01  # share from which what is only to be expected in small numbers becomes a warning
PLACES = 3
OF_ONE = {
    "have": "has",
    "lack": "lacks",
    "are": "is",
    "stand": "stands",
    "repeat": "repeats",
    "hold": "holds",
    "differ": "differs",
}
VERB = re.compile(rf"\b({'|'.join(OF_ONE)})\b")


class Place(NamedTuple):
    """A row of a file: ``Place("train.jsonl", "line 3")``."""

    file: str
    where: str


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        code: its name, the same in every version.
        severity: one of `SEVERITIES`.
        what: what is so, of what `count` counts.
        count: how many, of `of`.
        places: the first ones, in the order of the files.
        advice: what to do, in one line.
    """

    code: str
    severity: str
    what: str
    count: int
    of: int
    places: tuple[Place, ...]
    advice: str

    @property
    def said(self) -> str:
        """`what`, with its verb for one where it is one."""
        return VERB.sub(lambda verb: OF_ONE[verb[0]], self.what, count=1) if self.count == 1 else self.what

    @property
    def share(self) -> float:
        """`count` over `of`."""
        return self.count / max(1, self.of)

    def as_json(self) -> dict[str, Any]:
        """Every field and the share, as JSON has it."""
        places = [place._asdict() for place in self.places]
        return {**vars(self), "share": self.share, "places": places}


def by_share(count: int, of: int) -> str:
    """A warning from `MANY` on, else a note."""
    return "warning" if count >= MANY * of else "note"


def named(labels: Iterable[str], most: int = 4, longest: int = 40) -> str:
    """Labels in quotes; long ones and long lists are cut short, so that labels that differ are seen to."""
    labels = list(labels)
    shown = [repr(label) for label in _shortened(labels[:most], longest)]
    return ", ".join(shown) + (f" and {len(labels) - most} more" if len(labels) > most else "")


def _shortened(labels: list[str], longest: int) -> list[str]:
    """Each at its beginning; those that have the same, from shortly before they differ; and if that says nothing, whole."""
    begun = [_part(label, 0, longest) for label in labels]
    same = [[other for other, seen in zip(labels, begun) if seen == short] for short in begun]
    starts = [_first_difference(group) - longest // 2 for group in same]
    parts = [_part(label, max(0, start), longest) for label, start in zip(labels, starts)]
    return parts if len(set(parts)) == len(set(labels)) else labels


def _first_difference(labels: list[str]) -> int:
    return next((i for i, characters in enumerate(zip_longest(*labels)) if len(set(characters)) > 1), 0)


def _part(label: str, start: int, longest: int) -> str:
    return "…" * (start > 0) + label[start : start + longest] + "…" * (len(label) > start + longest)


def worst(findings: Iterable[Finding]) -> str | None:
    """The severity of the worst one; None if there are none."""
    found = {finding.severity for finding in findings}
    return next((severity for severity in SEVERITIES if severity in found), None)
