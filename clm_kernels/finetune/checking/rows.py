"""Findings about whole rows: those that cannot be read, texts that say nothing, parts that seem swapped."""

from __future__ import annotations

from collections.abc import Iterator

from .finding import Finding, Place
from .parts import Part, Seen

FAR = 2  # times as many rows as train has, and a part seems to be swapped with it
LEFT_OUT = "mend them, or `train --skip-bad-rows`"
KINDS = {  # of `BadRow`: its code and what is so
    "line": ("unreadable", "rows cannot be read"),
    "column": ("no-column", "rows lack a column"),
    "text": ("empty-text", "rows have an empty text or none"),
    "label": ("bad-label", "rows have no label, or one that cannot be right"),
}
LONGEST = 60  # characters of a reason


def bad_rows(seen: Seen) -> Iterator[Finding]:
    """Rows that `train` stops at."""
    of = sum(len(part) + part.left_out for part in seen.parts)
    for kind, (code, what) in KINDS.items():
        having = [(part, part.bad[kind]) for part in seen.parts if kind in part.bad]
        if having:
            first = [(Place(part.path, row.where), row.reason) for part, bad in having for row in bad.first]
            count, reason = sum(bad.count for _, bad in having), _reason(first[0][1])
            remedy = next((row.remedy for _, bad in having for row in bad.first if row.remedy), LEFT_OUT)
            yield Finding(code, "error", f"{what}; the first {reason}", count, of, tuple(place for place, _ in first[:3]), remedy)
    for part in seen.parts:
        if not len(part):
            yield Finding(
                "no-rows", "error", f"part has no row that can be read: {part.name}", 1, len(seen.parts), (), "give another file"
            )


def texts_without_meaning(seen: Seen) -> Iterator[Finding]:
    """Texts that are how a program writes a missing value, or that no tokenizer takes."""
    of = sum(map(len, seen.parts))
    for code, severity, what, rows_of, advice in (
        ("no-unicode", "error", "texts hold half a character (a lone surrogate)", lambda part: part.broken, "write the file anew, as UTF-8"),
        ("nan-text", "warning", "texts are 'nan', 'null', 'none' or the like", lambda part: part.missing, "take them out where nothing was meant"),
    ):  # fmt: skip
        rows = {part.name: rows_of(part) for part in seen.parts}
        if count := sum(map(len, rows.values())):
            places = [place for part in seen.parts for place in part.places(rows[part.name])]
            yield Finding(code, severity, what, count, of, tuple(places[:3]), advice)


def swapped(seen: Seen) -> Iterator[Finding]:
    """Parts far larger than train."""
    sizes: dict[str, Part] = {part.name: part for part in seen.parts}
    train = sizes.pop("train")
    for name, part in sizes.items():
        if len(part) > FAR * len(train) > 0:
            what = f"rows are in {name}, and only {len(train):,} in train"
            yield Finding("swapped", "warning", what, len(part), len(part) + len(train), (), "see whether the two are swapped")


def _reason(message: str) -> str:
    """What a message says beside the place: ``must be …, got …``."""
    _, found, said = message.partition(" must be ")
    said = f"must be {said.partition(';')[0]}" if found else message
    return said if len(said) <= LONGEST else f"{said[:LONGEST]}…"
