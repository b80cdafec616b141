"""The console that every command writes with: what it is given to print holds no command for the terminal."""

from __future__ import annotations

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
