"""HTML in which nothing but `tag` makes markup: every other string is text, and is written as such."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any

from ...escaping import visible

NAME = 80  # letters of a name that are shown


class Html(str):
    """Markup, made by `tag`."""

    __slots__ = ()


NOTHING = Html("")


def tag(name: str, *children: Any, **attributes: Any) -> Html:
    """An element. Children that are not `Html` are escaped, and so are attributes' values; those that are None are left out.

    An attribute's name may end with ``_``, and has ``_`` for ``-``.
    """
    told = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_escaped(value)}"' for key, value in attributes.items() if value is not None
    )
    return Html(f"<{name}{told}>{joined(children)}</{name}>")


def joined(children: Iterable[Any]) -> Html:
    """One after another."""
    return Html("".join(child if isinstance(child, Html) else _escaped(child) for child in children))


def named(text: str, most: int = NAME) -> Html:
    """A text of the data: no longer than `most`, and its direction its own."""
    text = " ".join(text.split())
    shown = text if len(text) <= most else f"{text[: most - 1]}…"
    return tag("bdi", Html(_escaped(shown).replace("_", "_<wbr>")))  # where a long name may be broken


def plain(text: str, most: int = NAME) -> Html:
    """The same where there can be no element."""
    return Html(_escaped(text[:most]))


def table(header: Sequence[Any], rows: Iterable[Sequence[Any]], label: str, words: int = 1, kind: str = "") -> Html:
    """A table that scrolls within itself; the first `words` columns are words, the others numbers.

    Args:
        label: what it is, for those who do not see it.
        kind: a class of the style.
    """
    head = tag("tr", *(tag("th", cell, scope="col", class_=_number(i, words)) for i, cell in enumerate(header)))
    body = [
        tag("tr", *(tag("td" if i else "th", cell, scope=None if i else "row", class_=_number(i, words)) for i, cell in enumerate(row)))
        for row in rows
    ]  # fmt: skip
    made = tag("table", tag("thead", head), tag("tbody", *body))
    return tag("div", made, class_=f"scroll {kind}".strip(), tabindex="0", role="region", aria_label=label)


def paragraph(*children: Any) -> Html:
    return tag("p", *children)


def bar(share: float, kind: str = "") -> Html:
    """A line as long as a share of 1; what it says has to stand beside it in numbers."""
    filled = tag("i", style=f"width:{100 * min(1.0, max(0.0, share)):.1f}%")
    return tag("span", filled, class_=f"bar {kind}".strip(), aria_hidden="true")


def band(score: float, low: float, high: float) -> Html:
    """An interval from 0 to 1, and the score in it."""
    width = f"left:{100 * low:.1f}%;width:{100 * max(0.004, high - low):.1f}%"
    inside = tag("i", style=width), tag("b", style=f"left:{100 * score:.1f}%")
    return tag("span", *inside, class_="band", aria_hidden="true")


def _number(column: int, words: int) -> str | None:
    return "n" if column >= words else None


def _escaped(value: Any) -> str:
    return html.escape(visible(str(value)))
