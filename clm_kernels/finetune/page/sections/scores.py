"""Every score with its interval, and how validation went."""

from __future__ import annotations

from typing import Any

from ..content import Content
from ..markup import NOTHING, Html, band, joined, named, paragraph, table, tag
from ..numbers import first_letter, percent, spread, title

EPOCHS = 40  # validations that are shown
NO_SCORES = ("epoch", "step", "train_loss", "loss")


def told(content: Content) -> Html:
    return joined(
        [_with_intervals(content), _beside_another(content), _validations(content.report) if content.report else NOTHING]
    )


def _with_intervals(content: Content) -> Html:
    judged = content.judged
    if judged is None:
        return NOTHING
    rows = [[first_letter(title(name)), percent(each.score), f"{percent(each.low)} to {percent(each.high)}", band(*each)]
            for name, each in judged.scores.items()]  # fmt: skip
    further = content.report.test if content.report and judged.part == "test" else None
    for name, value in (further or {}).items():
        if name not in judged.scores and name != "loss":
            rows.append([first_letter(title(name)), percent(value), "", ""])
    drawn = f"Intervals: the middle 95 % of {judged.draws:,} bootstrap draws of {judged.rows:,} texts. The scale goes from 0 to 100 %."
    return joined([table(["", "score", "95 % interval", ""], rows, "Scores", 1, "scores"), tag("p", drawn, class_="fine")])


def _beside_another(content: Content) -> Html:
    if (other := content.compared) is None:
        return NOTHING
    rows = [
        [
            first_letter(title(name)),
            f"{100 * more.difference:+.1f}",
            f"{100 * more.low:+.1f} to {100 * more.high:+.1f}",
            f"{more.p:.3g}",
        ]
        for name, more in other.differences.items()
    ]
    test = other.mcnemar
    said = f"Right in one alone: {test.only_first:,} and {test.only_second:,} texts, McNemar's p {test.p:.3g}." if test else ""
    differences = table(["", "points more", "95 % interval", "p"], rows, "Differences")
    return joined(
        [tag("h3", "What ", named(other.model.rpartition("/")[2]), " scores more"), differences, tag("p", said, class_="fine")]
    )


def _validations(report: Any) -> Html:
    if not report.history:
        return NOTHING
    names = [name for name in report.best if name not in NO_SCORES]
    rows = []
    for i in spread(len(report.history), EPOCHS):
        line = report.history[i]
        losses = ("" if line.get(name) is None else f"{line[name]:.3f}" for name in ("train_loss", "loss"))
        best = tag("span", "● kept", class_="kept") if line == report.best else ""
        rows.append([f"{line['epoch']:g}", *losses, *(percent(line[name]) for name in names), best])
    header = ["epoch", "training loss", "validation loss", *map(title, names), ""]
    left = len(report.history) - len(rows)
    more = tag("p", f"{left:,} more validations are in report.json.", class_="fine") if left else NOTHING
    chosen = paragraph(
        f"The checkpoint with the best {title(report.best_by)} on the validation data is kept; test scores choose nothing."
    )
    return joined([tag("h3", "Validation, epoch by epoch"), chosen, table(header, rows, "Validation, epoch by epoch"), more])
