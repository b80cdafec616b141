"""The console that every command writes with, as wide as the terminal or else COLUMNS or 80 characters: what it is given to print
holds no command for the terminal."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable
from typing import Any

from rich import console, markup
from rich.segment import Segment

from ..escaping import visible


class Console(console.Console):
    """rich's, with texts escaped by `visible`; its own colours and movements pass."""

    def __init__(self, **given: Any):
        super().__init__(emoji=False, **given)

    def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text, keep="\n"))


def escaped(text: str) -> str:
    """A text to be put into rich's markup, as in the cells and titles of its tables."""
    return markup.escape(visible(text))


def wrapped(line: str, indent: str = "    ") -> str:
    """A line broken at spaces to the console's width; words that are longer, as paths, stay whole."""
    width = Console().width
    return textwrap.fill(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def folded(text: str, width: int) -> str:
    """A label or another name, escaped, in lines of this width that end at spaces or underscores where there are some."""
    lines = [""]
    for word in re.findall(r"[^\s_]+[\s_]*|[\s_]+", visible(text)):
        if lines[-1] and len(lines[-1]) + len(word.rstrip()) > width:
            lines.append("")
        lines[-1] += word
    return "\n".join(line.rstrip() for line in lines)
