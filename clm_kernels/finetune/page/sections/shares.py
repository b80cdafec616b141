"""Which part of the tokens and of the examples took part, epoch by epoch, and in which layers."""

from __future__ import annotations

from typing import Any

from ....models.roles import by_number
from ..charts import lines
from ..content import Content
from ..markup import NOTHING, Html, joined, paragraph, table, tag
from ..numbers import percent, spread

EPOCHS, COLUMNS = 40, 8  # epochs that are shown, and in the table of layers


def told(content: Content) -> Html:
    report = content.report
    if report is None:
        return NOTHING
    if not report.active and not report.examples:
        config = report.config
        all_in = str(config.get("energy", "1")) in ("1", "1.0") and not any(
            config.get(name) for name in ("noise", "skip", "cost")
        )
        return paragraph("No token and no example was left out." if all_in else "What took part was not counted.")
    said = [
        "The backward left tokens out that hold little of the gradient; all tokens count, weighted by what their layers cost." if report.active else "",
        "Examples that had nothing to teach any more were left out of an epoch." if report.examples else "",
    ]  # fmt: skip
    return joined([paragraph(" ".join(filter(None, said))), _by_epoch(report), _by_layer(report.active)])


def _by_epoch(report: Any) -> Html:
    count = max(len(report.active), len(report.examples))
    chosen = spread(count, EPOCHS)
    parts = [("tokens", "tokens", report.active, "tokens"), ("examples", "examples", report.examples, "examples"),
             ("", "examples' tokens", report.examples, "tokens")]  # fmt: skip
    parts = [part for part in parts if len(part[2]) == count]
    drawn = [(kind, [rows[i][key] for i in chosen]) for kind, _, rows, key in parts if kind]
    keys = {"tokens": "solid, with circles: tokens in the backward", "examples": "dashed, with squares: examples"}
    caption = tag("figcaption", f"Part that took part in each epoch. {'; '.join(keys[kind] for kind, _ in drawn).capitalize()}.")
    flops = [line["flops"] for line in report.active]
    header = ["epoch", *(name for _, name, _, _ in parts), *(["backward FLOPs"] if flops and None not in flops else [])]
    rows = [
        [
            str(i + 1),
            *(percent(rows[i][key]) for _, _, rows, key in parts),
            *([percent(flops[i])] if len(header) > len(parts) + 1 else []),
        ]
        for i in chosen
    ]
    left = tag("p", f"{count - len(rows):,} more epochs are in report.json.", class_="fine") if count > len(rows) else NOTHING
    figure = tag("figure", lines(drawn, "Part of tokens and examples in each epoch", [i + 1 for i in chosen]), caption)
    return joined([tag("div", figure, table(header, rows, "Tokens and examples, epoch by epoch"), class_="sides"), left])


def _by_layer(active: list[dict[str, Any]]) -> Html:
    if not active:
        return NOTHING
    shown = [active[i] for i in spread(len(active), COLUMNS)]
    by_depth = [by_number(line["layers"]) for line in shown]
    numbers = sorted({number for layers in by_depth for number in layers})
    rows = [[f"layer {number}", *(_cell(layers.get(number)) for layers in by_depth)] for number in numbers]
    header = ["", *(f"epoch {line['epoch']:g}" for line in shown)]
    return joined([tag("h3", "Tokens in the backward, layer by layer"), table(header, rows, "Tokens by layer", 1, "layers")])


def _cell(share: float | None) -> Any:
    return "" if share is None else tag("span", percent(share, 0), style=f"--share:{share:.2f}")
