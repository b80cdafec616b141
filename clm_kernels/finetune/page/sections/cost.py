"""What training was to cost and has cost: FLOPs beside full fine-tuning's, and seconds."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from ...partial_epochs import part_of_full
from ..charts import columns
from ..content import Content
from ..markup import NOTHING, Html, joined, paragraph, table, tag
from ..numbers import percent, seconds_in_short, short, spread, time

EPOCHS = 40  # that are shown


def told(content: Content) -> Html:
    report = content.report
    if report is None or not (report.cost or report.seconds):
        return NOTHING
    pictures = tag("div", *_pictures(report), class_="cards")
    tables = (tag("div", found) for found in (_epochs(report), _of_a_step(report), _seconds(report)) if found)
    return joined([*_sentences(report), pictures, tag("div", *tables, class_="cards")])


def _sentences(report: Any) -> Iterator[Html]:
    if cost := report.cost:
        whole = cost["forward"] + cost["full"]
        before = (cost["forward"] + cost["input_gradients"] + cost["weight_gradients"]) / whole
        every = " with every token and example" if report.active or report.examples else ""
        text = (
            f"Before training{every}: {percent(before)} of full fine-tuning's FLOPs, its backward alone {percent(cost['share'])}."
        )
        if report.planned:
            how = "fit into the minutes" if "asked" in report.minutes else "were asked for"
            text += f" {percent(report.config['cost'])} {how}, and {percent(part_of_full(report.planned, report.config.get('epochs', 0.0)))} planned."
        if report.spent:
            text += f" Paid over all epochs: {percent(part_of_full(report.spent, report.epochs))}."
        yield paragraph(
            text, " Full fine-tuning is every weight, on every token of every example; choosing what is trained is not counted."
        )


def _pictures(report: Any) -> Iterator[Html]:
    if report.spent:
        chosen = spread(len(report.spent), EPOCHS)
        planned = [report.planned[i] for i in chosen] if report.planned else ()
        drawn = columns(
            [report.spent[i] for i in chosen],
            "FLOPs of each epoch beside full fine-tuning's",
            partial(percent, digits=0),
            [i + 1 for i in chosen],
            planned,
            whole=1.0,
        )
        dashed = "; dashed: planned" if report.planned else ""
        yield tag("figure", drawn, tag("figcaption", f"FLOPs of each epoch; 100 % is an epoch of full fine-tuning{dashed}"))
    if seconds := report.seconds.get("epochs"):
        chosen, first = spread(len(seconds), EPOCHS), 1 + max(0, len(report.spent) - len(seconds))
        shown, numbers = [seconds[i] for i in chosen], [i + first for i in chosen]
        drawn = columns(shown, "Seconds of each epoch", seconds_in_short, numbers)
        resumed = f"; from epoch {first} on, where the run was resumed" if first > 1 else ""
        yield tag("figure", drawn, tag("figcaption", f"Seconds of each epoch, without validation{resumed}"))


def _epochs(report: Any) -> Html:
    seconds, count = report.seconds.get("epochs", []), max(len(report.spent), len(report.seconds.get("epochs", [])))
    missing, rows = count - len(seconds), []
    for i in spread(count, EPOCHS):
        planned = [percent(report.planned[i])] if report.planned else []
        spent = percent(report.spent[i]) if report.spent else "-"
        rows.append([str(i + 1), *planned, spent, time(seconds[i - missing]) if i >= missing else "-"])
    left = tag("p", f"{count - len(rows):,} more epochs are in report.json.", class_="fine") if count > len(rows) else NOTHING
    header = ["epoch", *(["FLOPs planned"] if report.planned else []), "FLOPs paid", "time"]
    return joined([tag("h3", "Epochs"), table(header, rows, "Cost, epoch by epoch"), left]) if rows else NOTHING


def _of_a_step(report: Any) -> Html:
    cost = report.cost
    if not cost:
        return NOTHING
    whole = cost["forward"] + cost["full"]
    parts = (("forward", cost["forward"]), ("input gradients", cost["input_gradients"]), ("weight gradients", cost["weight_gradients"]),
             ("together", cost["forward"] + cost["input_gradients"] + cost["weight_gradients"]), ("full fine-tuning", whole))  # fmt: skip
    rows = [[name, short(flops), percent(flops / whole)] for name, flops in parts]
    told = f"Of {cost['batch']:,} texts of {cost['length']:,} tokens, as counted before training."
    counted = table(["", "FLOPs", "of full"], rows, "FLOPs of a step")
    return joined([tag("h3", "A step"), counted, tag("p", told, class_="fine")])


def _seconds(report: Any) -> Html:
    names = {
        "selecting": "choosing what is trained",
        "replay": "running the frozen layers once",
        "training": "training, with validation",
    }
    rows = [[name, time(report.seconds[key])] for key, name in names.items() if isinstance(report.seconds.get(key), (int, float))]
    return joined([tag("h3", "Time"), table(["", "time"], rows, "Time")]) if rows else NOTHING
