"""Pictures of something epoch by epoch: columns, and lines. What they show stands in a table beside them too."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from .markup import Html, tag
from .numbers import percent

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 320, 190, 40, 24, 18
WRITTEN = 8  # columns up to which each has its number


def columns(
    values: Sequence[float], label: str, form: Callable[[float], str], numbers: Sequence[int], marks: Sequence[float] = (),
    whole: float = 0.0,
) -> Html:  # fmt: skip
    """A column for each epoch.

    Args:
        numbers: of the epochs.
        form: how a number is written.
        marks: a dashed line across each column, of what was planned.
        whole: how high the picture is at least.
    """
    top = _round_up(max([*values, *marks, whole, 1e-12]))
    inside = [*_axes(top, form, numbers)]
    wide = _step(len(values))
    for i, value in enumerate(values):
        x, y = LEFT + i * wide + 0.14 * wide, _y(value / top)
        inside.append(
            tag("rect", x=f"{x:.1f}", y=f"{y:.1f}", width=f"{0.72 * wide:.1f}", height=f"{_y(0) - y:.1f}", class_="paid")
        )
        if marks:
            inside.append(tag("path", d=f"M{x - 0.08 * wide:.1f} {_y(marks[i] / top):.1f}h{0.88 * wide:.1f}", class_="planned"))
        if len(values) <= WRITTEN:
            above = min(y, _y(marks[i] / top)) if marks else y
            inside.append(tag("text", form(value), x=f"{x + 0.36 * wide:.1f}", y=f"{above - 4:.1f}", text_anchor="middle"))
    return _drawn(inside, label)


def lines(each: Sequence[tuple[str, Sequence[float]]], label: str, numbers: Sequence[int]) -> Html:
    """Shares of 1 over epochs of these numbers: lines told apart by dash and marker, by their class in the style."""
    count = len(each[0][1])
    inside, wide = [*_axes(1.0, partial(percent, digits=0), numbers)], _step(count)
    for kind, values in each:
        points = [(LEFT + (i + 0.5) * wide, _y(value)) for i, value in enumerate(values)]
        inside.append(tag("path", d="M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points), class_=f"line {kind}"))
        if count <= 2 * WRITTEN:
            inside += [_marker(kind, x, y) for x, y in points]
    return _drawn(inside, label)


def _marker(kind: str, x: float, y: float) -> Html:
    if kind == "tokens":
        return tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=3.4, class_=f"mark {kind}")
    return tag("rect", x=f"{x - 4.2:.1f}", y=f"{y - 4.2:.1f}", width=8.4, height=8.4, class_=f"mark {kind}")


def _axes(top: float, form: Callable[[float], str], numbers: Sequence[int]) -> Iterator[Html]:
    for part in (0.0, 0.5, 1.0):
        yield tag("path", d=f"M{LEFT} {_y(part):.1f}H{WIDTH}", class_="grid")
        yield tag("text", form(part * top), x=LEFT - 5, y=f"{_y(part) + 3.5:.1f}", text_anchor="end")
    count = len(numbers)
    for i in range(0, count, math.ceil(count / 12) or 1):
        yield tag("text", numbers[i], x=f"{LEFT + (i + 0.5) * _step(count):.1f}", y=HEIGHT - BOTTOM + 15, text_anchor="middle")


def _drawn(inside: Sequence[Html], label: str) -> Html:
    return tag("svg", *inside, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=label)


def _step(count: int) -> float:
    return (WIDTH - LEFT) / max(1, count)


def _y(part: float) -> float:
    return HEIGHT - BOTTOM - part * (HEIGHT - BOTTOM - TOP)


def _round_up(value: float) -> float:
    """To one, two or five of a power of ten."""
    scale = 10.0 ** math.floor(math.log10(value))
    return next(step * scale for step in (1, 2, 5, 10) if step * scale >= value * 0.999)
