"""Texts as they are compared: without case, space and punctuation."""

from __future__ import annotations

import unicodedata

MISSING = frozenset({"nan", "null", "none", "n/a", "#n/a", "<na>"})  # what programs write for nothing
LONGEST = max(map(len, MISSING))


class _Kept(dict[int, str | None]):
    """Code point -> itself, or None for punctuation, separators and control characters; for `str.translate`."""

    def __missing__(self, code: int) -> str | None:
        character = chr(code)
        self[code] = kept = None if unicodedata.category(character)[0] in "PZC" else character
        return kept


_KEPT = _Kept()


def loosened(text: str) -> str:
    """The text in lower case without spaces and punctuation; as it is where nothing else is in it."""
    return text.casefold().translate(_KEPT) or text


def is_missing(text: str) -> bool:
    """Whether the text is how some program writes a missing value."""
    return len(text) < LONGEST + 8 and text.strip().casefold() in MISSING


def same_name(label: str) -> str:
    """What labels have in common that differ by case or space alone."""
    return "".join(unicodedata.normalize("NFKC", label).casefold().split())
