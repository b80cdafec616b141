"""Words of data made safe to show: nothing in a label, a text or a file's name reaches a terminal, a table or a picture as a command."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any

JOINERS = "\u200c\u200d"  # invisible, but scripts and emoji are written with them
FORMULA = "=+-@\uff1d\uff0b\uff0d\uff20"  # what spreadsheets take for the beginning of one, in full width too
MARKUP = "\\`*_[]<>|&#~!$"
DRAWN: dict[str, Any] = {"parse_math": False, "usetex": False}  # of a text in a picture: a $ is a $


def visible(text: str, keep: str = "") -> str:
    r"""The text with what is not seen as Python escapes it: ``\x1b``, ``\n``, ``\u202e``.

    Control characters, marks of direction, separators of lines, halves of surrogate pairs and unassigned characters are not
    seen; spaces and joiners are left.

    Args:
        keep: characters that are left too.
    """
    return text if text.isprintable() else "".join(c if _seen(c) or c in keep else repr(c)[1:-1] for c in text)


def cell(text: str) -> str:
    """`visible`, with ``'`` before what a spreadsheet would take for a formula; a sign that stands alone is none."""
    shown = visible(text)
    return f"'{shown}" if len(shown) > 1 and shown[0] in FORMULA else shown


def markdown(text: str) -> str:
    r"""`visible`, with ``\`` before what Markdown takes for more than a character: ``[``, ``|``, a backtick …"""
    return "".join(f"\\{c}" if c in MARKUP else c for c in visible(text))


def code(text: str) -> str:
    """`visible`, between as many backticks as Markdown needs to take it for what it is."""
    shown = visible(text)
    ticks = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    room = " " if shown[:1] == "`" or shown[-1:] == "`" else ""
    return f"{ticks}{room}{shown}{room}{ticks}"


def as_json(value: Any) -> str:
    r"""One line of JSON that reads back exactly; letters are themselves, what is not seen is ``\u…``."""
    line = json.dumps(value, ensure_ascii=False)
    return line if line.isprintable() else "".join(c if _seen(c) else json.dumps(c)[1:-1] for c in line)


def _seen(character: str) -> bool:
    return character.isprintable() or character in JOINERS or unicodedata.category(character) == "Zs"
