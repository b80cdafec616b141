"""How often labels are right by their probability."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...judging.calibration import Bin
from ..content import Content
from ..markup import NOTHING, Html, joined, paragraph, table, tag
from ..numbers import percent

WIDTH, HEIGHT, LEFT, BOTTOM = 320, 240, 38, 26  # of the picture


def told(content: Content) -> Html:
    judged = content.judged
    bins = [each for each in judged.bins if each.rows] if judged else []
    if judged is None or not bins:
        return NOTHING
    part = f"the {judged.part} data" if content.report else judged.part
    error = f"Expected calibration error on {part}: {judged.calibration_error:.3f}, over {len(judged.bins)} bins of equal width."
    right = "the text has the label" if judged.several else "right"
    header = ["probability", "on average", right, "pairs" if judged.several else judged.unit]
    rows = ([f"{percent(each.low, 0)} to {percent(each.high, 0)}", percent(each.probability), percent(each.accuracy), f"{each.rows:,}"]
            for each in reversed(bins))  # fmt: skip
    drawn = tag(
        "figure",
        _picture(bins),
        tag(
            "figcaption",
            "Columns: how often it is right. Hatched: what is missing to, or exceeds, the probability. Dashed: as it should be.",
        ),
    )
    sides = tag("div", drawn, table(header, rows, "Probabilities"), class_="sides")
    return joined([paragraph(error), *_fitted(content.report, judged.unit), sides])


def _fitted(report: Any, unit: str) -> Iterator[Html]:
    if report is None:
        return
    if fitted := report.calibration:
        yield paragraph(
            f"One temperature, {fitted['temperature']:.2f}, was fitted on {fitted['rows']:,} validation {'words' if unit == 'words' else 'texts'}; it took the error "
            f"there from {fitted['error_before']:.3f} to {fitted['error_after']:.3f}."
        )
    if scope := report.scope:
        yield paragraph(
            f"A text whose cosine to the nearest label's mean is below {scope['threshold']:.3f} counts as out of scope; "
            f"{percent(scope['kept'])} of {scope['rows']:,} validation texts are not."
        )


def _picture(bins: list[Bin]) -> Html:
    stripes = tag(
        "pattern", tag("path", d="M0 5L5 0"), id="stripes", width=5, height=5, patternUnits="userSpaceOnUse", class_="stripes"
    )
    inside = [tag("defs", stripes), *_axes()]
    for each in bins:
        x, width = _x(each.low) + 1, _x(each.high) - _x(each.low) - 2
        low, high = sorted((each.accuracy, each.probability))
        inside.append(_rect(x, width, 0, each.accuracy, "paid"))
        inside.append(_rect(x, width, low, high, "gap"))
    inside.append(tag("path", d=f"M{_x(0)} {_y(0)}L{_x(1)} {_y(1)}", class_="ideal"))
    return tag(
        "svg", *inside, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label="How often labels are right by their probability"
    )


def _axes() -> Iterator[Html]:
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        yield tag("path", d=f"M{_x(0)} {_y(share):.1f}H{_x(1)}", class_="grid")
        yield tag("text", percent(share, 0), x=LEFT - 5, y=f"{_y(share) + 3.5:.1f}", text_anchor="end")
        yield tag(
            "text", percent(share, 0), x=f"{_x(share):.1f}", y=HEIGHT - BOTTOM + 15, text_anchor="end" if share == 1 else "middle"
        )


def _rect(x: float, width: float, low: float, high: float, kind: str) -> Html:
    return tag("rect", x=f"{x:.1f}", y=f"{_y(high):.1f}", width=f"{width:.1f}", height=f"{_y(low) - _y(high):.1f}", class_=kind)


def _x(share: float) -> float:
    return LEFT + share * (WIDTH - LEFT - 4)


def _y(share: float) -> float:
    return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - 8)
