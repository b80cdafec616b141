"""Findings about tags that mark spans: which scheme they follow, and where they break it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..metrics import are_spans
from .finding import PLACES, Finding
from .parts import Part, Seen, as_numbers

OTHERS = {"L": "E", "U": "S", "M": "I"}  # as BILOU and BMES call them


@dataclass(frozen=True)
class Tags:
    """The tags of one part beside those before them, at the beginning of a row O.

    Attributes:
        prefix, before: B, I, E, S or O, as a byte.
        same: whether both are of the same type.
        last: whether no tag follows in the row.
    """

    prefix: np.ndarray
    before: np.ndarray
    same: np.ndarray
    last: np.ndarray

    @classmethod
    def of(cls, part: Part, labels: list[str]) -> Tags:
        """Of the rows of a part."""
        types: dict[str, int] = {}
        kinds = np.array([types.setdefault(label[2:], len(types)) for label in labels], np.int32)
        prefixes = np.array([ord(label[0]) for label in labels], np.uint8)
        numbers, ends = as_numbers(part.labels), as_numbers(part.ends)
        prefix, kind = prefixes[numbers], kinds[numbers]
        before, same, last = np.empty_like(prefix), np.empty(len(prefix), bool), np.zeros(len(prefix), bool)
        before[1:], same[1:] = prefix[:-1], kind[1:] == kind[:-1]
        starts = np.r_[0, ends[:-1]]
        before[starts], same[starts] = ord("O"), False
        last[ends - 1] = True
        return cls(prefix, before, same, last)

    def follows(self) -> np.ndarray:
        """Where a tag goes on with the span that the one before belongs to."""
        return self.same & _among(self.before, "BI")

    def goes_on(self) -> np.ndarray:
        """Where a tag says that it goes on with a span."""
        return _among(self.prefix, "IE")

    def unfinished(self) -> np.ndarray:
        """IOBES: where a span has no end, at its last tag."""
        ended = np.r_[~(self.goes_on() & self.follows())[1:], True] | self.last
        return _among(self.prefix, "BI") & ended


def scheme(seen: Seen) -> str | None:
    """IOB2, IOB1, IO or IOBES; None where no tags mark spans."""
    if not seen.per_token or not are_spans(seen.names):
        return None
    prefixes = {label[0] for label in seen.names} - {"O"}
    if prefixes & {"E", "S"}:
        return "IOBES"
    if "B" not in prefixes:
        return "IO"
    tags = [Tags.of(part, seen.labels) for part in seen.parts if len(part)]
    only_between = all(part.follows()[part.prefix == ord("B")].all() for part in tags)
    return "IOB1" if only_between and any((part.goes_on() & ~part.follows()).any() for part in tags) else "IOB2"


def broken_spans(seen: Seen) -> Iterator[Finding]:
    """Tags that the scheme does not allow where they stand."""
    named, of = scheme(seen), sum(map(len, seen.parts))
    if named in ("IOB1", "IO"):
        words = "each span but one after its like begins with I-" if named == "IOB1" else "no tag begins with B-"
        advice = "scored rightly; most tools expect IOB2" if named == "IOB1" else "begin spans with B-, or neighbours merge"
        yield Finding("scheme", "note", f"rows have {named} tags: {words}", of, of, (), advice)
    elif named:
        places, tags, rows = [], 0, 0
        for part in seen.parts:
            found = np.flatnonzero(_broken(Tags.of(part, seen.labels), named)) if len(part) else np.empty(0, int)
            within = list(dict.fromkeys(np.searchsorted(as_numbers(part.ends), found, side="right").tolist()))
            places, tags, rows = places + part.places(within), tags + len(found), rows + len(within)
        if rows:
            what = f"rows have {tags:,} tags that {named} does not allow there, as I- after O or after another type"
            advice = (
                "B- begins, I- goes on, E- ends, S- is alone"
                if named == "IOBES"
                else "a span begins with B-, goes on with its I-"
            )
            yield Finding("broken-spans", "warning", what, rows, of, tuple(places[:PLACES]), advice)


def other_schemes(seen: Seen) -> Iterator[Finding]:
    """Tags of a scheme that is not scored by spans."""
    if not seen.per_token or are_spans(seen.names):
        return
    names = {label: f"{OTHERS.get(label[0], label[0])}{label[1:]}" for label in seen.names if label != "O"}
    prefixed = all(label[1:2] == "-" for label in names)
    if prefixed and are_spans(names.values()):
        what = "labels are of BILOU or BMES, which are scored by words and not by spans"
        advice = "write E- for L-, S- for U-, I- for M-"
        changed = [label for label, other in names.items() if label != other]
        yield Finding("scheme", "warning", what, len(changed), len(seen.names), (), advice)


def _broken(tags: Tags, named: str) -> np.ndarray:
    wrong = tags.goes_on() & ~tags.follows()
    return wrong | tags.unfinished() if named == "IOBES" else wrong


def _among(prefixes: np.ndarray, wanted: str) -> np.ndarray:
    return np.isin(prefixes, [ord(letter) for letter in wanted])
