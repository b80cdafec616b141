"""Findings about what the tokenizer makes of the texts."""

from __future__ import annotations

from collections.abc import Iterator

from .finding import Finding, by_share
from .parts import Seen


def cut_off(seen: Seen) -> Iterator[Finding]:
    """Texts longer than the limit."""
    for part in seen.parts:
        if part.lengths is not None and (count := len(part.lengths.cut)):
            of, limit = len(part.lengths.rows), part.lengths.limit.tokens
            places = tuple(part.places(part.lengths.cut))
            if windows := part.lengths.windows:
                what = f"texts of {part.name} beyond {limit} tokens are read in {windows:,} windows{_drawn(of, len(part))}"
                advice = "nothing is lost: each of them counts as one text, and takes the time of its windows"
                yield Finding(f"windows-{part.name}", "note", what, count, of, places, advice)
                continue
            what = f"texts of {part.name} are cut off at {limit} tokens{_drawn(of, len(part))}"
            by = part.lengths.limit.by
            advice = f"{'raise `--max-length`, or ' if by == 'max_length' else ''}shorten them: {by} sets the limit"
            yield Finding(f"cut-{part.name}", by_share(count, of), what, count, of, places, advice)


def unknown_tokens(seen: Seen) -> Iterator[Finding]:
    """Tokens that the tokenizer does not know."""
    for part in seen.parts:
        if part.lengths is not None and (count := part.lengths.unknown_tokens):
            what = f"tokens of {part.name} are unknown to the tokenizer{_drawn(len(part.lengths.rows), len(part))}"
            places, of = tuple(part.places(part.lengths.unknown)), part.lengths.tokens
            advice = "take a model that knows these characters"
            yield Finding(f"unknown-{part.name}", by_share(count, of), what, count, of, places, advice)


def _drawn(sample: int, rows: int) -> str:
    return f", of {sample:,} texts drawn from {rows:,}" if sample < rows else ""
