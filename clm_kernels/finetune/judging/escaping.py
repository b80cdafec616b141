"""Texts and labels of strangers, made harmless for a terminal and for a spreadsheet."""

from __future__ import annotations

FORMULA = ("=", "+", "-", "@")  # what a spreadsheet may take for the beginning of one


def escaped(value: object, sheet: bool = False) -> str:
    """A text whose control characters are written out; for a spreadsheet with a ``'`` before what could be a formula."""
    text = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in str(value))
    return f"'{text}" if sheet and text.startswith(FORMULA) else text
