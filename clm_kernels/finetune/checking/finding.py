"""`Finding`: one thing that was found in the data, how bad it is, where, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

SEVERITIES = ("error", "warning", "note")  # train refuses it or a score means nothing; it costs or flatters; good to know
MANY = 0.01  # share from which what is only to be expected in small numbers becomes a warning
PLACES = 3


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
    """Labels in quotes; long ones and long lists are cut short."""
    labels = list(labels)
    shown = [repr(label if len(label) <= longest else f"{label[:longest]}…") for label in labels[:most]]
    return ", ".join(shown) + (f" and {len(labels) - most} more" if len(labels) > most else "")


def worst(findings: Iterable[Finding]) -> str | None:
    """The severity of the worst one; None if there are none."""
    found = {finding.severity for finding in findings}
    return next((severity for severity in SEVERITIES if severity in found), None)
