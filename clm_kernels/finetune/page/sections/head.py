"""The first screen: what was trained, how good it is, and what it cost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...partial_epochs import part_of_full
from ..content import Content
from ..markup import Html, band, bar, joined, named, tag
from ..numbers import first_letter, percent, short, size, time, title

NOTE = 300  # letters of a note that are shown


def told(content: Content) -> Html:
    report = content.report
    eyebrow = "Report of a training run" if report else "Report of an evaluation"
    lead = _trained(content) if report else _judged(content)
    tiles = tag("dl", *_score(content), *(_costs(report) if report else _mistakes(content)), class_="tiles")
    notes = [tag("p", named(note, NOTE), class_="note") for note in _notes(content)]
    return tag("header", tag("p", eyebrow, class_="eyebrow"), tag("h1", named(content.name)), lead, tiles, *notes)


def _trained(content: Content) -> Html:
    report: Any = content.report
    config, train = report.config, report.data["train"]
    doing = {"token": "tag words with", "multilabel": "give texts any of"}.get(report.data["task"], "tell")
    share = report.trained / max(1, report.parameters)
    return tag(
        "p",
        tag("strong", named(_file(config["model"]))), f", fine-tuned on {train['rows']:,} texts of ", named(train.get("address") or _file(train["path"])),
        f" to {doing} {len(report.labels):,} labels. Of its {short(report.parameters)} numbers {short(report.trained)} were trained ",
        f"({percent(share)}), method ", tag("code", config["method"]), ".", class_="lead",
    )  # fmt: skip


def _judged(content: Content) -> Html:
    about = content.about
    return tag("p", tag("strong", named(about["model"])), ", judged on ", named(about["data"]), ".", class_="lead")


def _score(content: Content) -> Iterator[Html]:
    judged = content.judged
    if judged is None:
        return
    name, found = next((name, found) for name, found in judged.scores.items() if name == _counts(content))
    where = f"the {judged.part} data" if content.report else named(judged.part)
    told = f"95 % interval {percent(found.low)} to {percent(found.high)}, {judged.rows:,} texts"
    yield tile(joined([f"{first_letter(title(name))} on ", where]), percent(found.score), band(*found), told)


def _counts(content: Content) -> str:
    """The score that picks the best checkpoint, if it is one with an interval."""
    scores: Any = content.judged and content.judged.scores
    best = content.report.best_by if content.report else ""
    return best if best in scores else next(iter(scores))


def _costs(report: Any) -> Iterator[Html]:
    if report.spent:
        paid = part_of_full(report.spent, report.epochs)
        planned = part_of_full(report.planned, report.config.get("epochs", 0.0)) if report.planned else None
        said = "of full fine-tuning's FLOPs, forward and backward"
        said += f"; {percent(planned)} were planned" if planned is not None else ""
        yield tile("Training took", percent(paid), bar(paid), said)
    elif report.cost:
        said = "of full fine-tuning's backward, as counted before training"
        yield tile("The backward takes", percent(report.cost["share"]), bar(report.cost["share"]), said)
    epochs = report.seconds.get("epochs", [])
    if "training" in report.seconds:
        count = f"{len(epochs)} epoch{'s' * (len(epochs) != 1)} with validation, on {_device(report)}"
        choosing = f"; {time(report.seconds['selecting'])} before them to choose what is trained" if report.selection else ""
        yield tile("Time to train", time(report.seconds["training"]), None, count + choosing)
    if small := next((what for what in ("delta", "adapter") if what in report.sizes), None):
        times = report.sizes["checkpoint"] / max(1, report.sizes[small])
        said = f"the {small}; a whole checkpoint is {size(report.sizes['checkpoint'])}, {times:,.0f} times as large"
        yield tile("To keep", size(report.sizes[small]), None, said)
    elif "checkpoint" in report.sizes:
        yield tile("To keep", size(report.sizes["checkpoint"]), None, "the whole checkpoint")


def _mistakes(content: Content) -> Iterator[Html]:
    judged: Any = content.judged
    share = judged.wrong / max(1, judged.items)
    yield tile("Mistakes", f"{judged.wrong:,}", bar(share), f"of {judged.items:,} {judged.unit}")
    yield tile(
        "Calibration error", f"{judged.calibration_error:.3f}", None, "how far probabilities are off on average; 0 is best"
    )


def _notes(content: Content) -> Iterator[str]:
    yield from content.notes
    if content.report and content.judged and content.judged.part == "validation":
        yield (
            "There was no test data: all that follows is of the validation data, which chose the checkpoint, so other texts will come "
            "out somewhat worse."
        )


def tile(name: Any, value: str, drawn: Html | None, told: str) -> Html:
    """A number that the eye falls on, with what it is and what it means."""
    return tag("div", tag("dt", name), tag("dd", tag("strong", value), *filter(None, [drawn]), tag("small", told)))


def _device(report: Any) -> str:
    device = report.made_on.get("device", "")
    return "the CPU" if device == "cpu" else device


def _file(path: str) -> str:
    """Its last name; with the one before it where that alone says nothing."""
    *_, before, last = ["", *path.replace("\\", "/").rstrip("/").split("/")]
    return f"{before}/{last}" if before and last in ("model", "checkpoint", "output") else last
