"""``clm-kernels check``: what is wrong with data, before anything is trained on it."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from ..escaping import visible
from ..finetune.config import TrainConfig
from ..finetune.hub import on_hub
from .console import Console, folded
from .options import config_options
from .told import Told

READING = (
    "validation", "test", "model", "task", "text_column", "label_column", "tokens_column", "tags_column", "labels_column",
    "label_separator", "delimiter", "template", "max_length", "long",
)  # fmt: skip
STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}
ERRORS, WARNINGS = 2, 1  # exit codes
SHOWN = 20  # labels
LABEL = 42  # characters of one in a line


@config_options(READING)
def check(
    config: TrainConfig,
    train: Annotated[str, typer.Argument(help="Training data, as train takes it.", show_default=False)],
    rare: Annotated[int, typer.Option(min=1, help="Texts (or words) of a label in train below which it is called rare.")] = 5,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 for a warning.")] = False,
) -> Told:
    """Say what is wrong with data, before anything is trained on it: rows that cannot be read, leaks, doubtful labels.

    Reads on where train stops, so that every bad row is counted. With --model, its tokenizer says how many texts are cut
    off at --max-length, or with --long window read in windows, and which tokens it does not know.

    Exit code: 0 if nothing is worse than a warning (with --strict: than a note), 1 for a warning with --strict, 2 for an
    error, which train refuses or which makes a score meaningless.
    """
    config.replace(train=train).check(("train",))
    if config.data.model or on_hub(train):
        from .quiet import quiet

        quiet()
    from ..finetune.checking.checked import check_files
    from ..finetune.checking.finding import worst
    from ..finetune.parts import with_files

    with with_files(config.replace(train=train).data) as data:
        checked = check_files(data, rare)
    _print(checked)
    severity = worst(checked.findings)
    bad = severity == "error" or (strict and severity == "warning")
    code = (ERRORS if severity == "error" else WARNINGS) if bad else 0
    return Told(checked.as_json(), _counted(checked), code)


def _print(checked: Any) -> None:
    console = Console(highlight=False)
    console.print(_parts(checked))
    console.print(_labels(checked))
    if checked.findings:
        console.print(_findings(checked))
    console.print(_counted(checked))


def _counted(checked: Any) -> str:
    from ..finetune.checking.finding import SEVERITIES

    counts = {severity: sum(finding.severity == severity for finding in checked.findings) for severity in SEVERITIES}
    found = [f"{count} {severity}{'s' * (count > 1)}" for severity, count in counts.items() if count]
    return ", ".join(found) or "nothing found"


def _parts(checked: Any) -> Table:
    from ..finetune.checking.spans import scheme

    named = scheme(checked.seen)
    table = Table(title=f"{checked.task} classification{f', {named} tags' if named else ''}", box=box.SIMPLE_HEAD)
    for name in ("part", "file"):
        table.add_column(name, overflow="fold")
    for name in ("rows", "bad rows", "labels"):
        table.add_column(name, justify="right", no_wrap=True)
    for part in checked.seen.parts:
        labels = (part.counts(len(checked.seen.names)) > 0).sum()
        table.add_row(part.name, Text(visible(part.path)), f"{len(part):,}", f"{part.left_out:,}", f"{labels:,}")
    return table


def _labels(checked: Any) -> Table:
    """The labels by their number in train; of many the first and the last ones."""

    seen = checked.seen
    counts = [part.counts(len(seen.names)).tolist() for part in seen.parts]
    rows = sorted(zip(seen.labels, *counts), key=lambda row: -row[1])
    table = Table(title=f"{seen.unit} of each label", box=box.SIMPLE_HEAD)
    table.add_column("label", overflow="fold")
    for part in seen.parts:
        table.add_column(part.name, justify="right", no_wrap=True)
    few = len(rows) <= SHOWN
    for label, *numbers in rows if few else rows[: SHOWN // 2]:
        table.add_row(Text(folded(label, LABEL)), *(f"{number:,}" for number in numbers))
    if not few:
        table.add_row(f"… {len(rows) - SHOWN} more (--json has all)")
        for label, *numbers in rows[-SHOWN // 2 :]:
            table.add_row(Text(folded(label, LABEL)), *(f"{number:,}" for number in numbers))
    return table


def _of_one(said: str) -> str:
    """What is said of one, which begins with a word for many."""
    noun, space, rest = said.partition(" ")
    return noun.removesuffix("s") + space + rest


def _findings(checked: Any) -> Table:
    from ..finetune.checking.shown import percent, placed

    table = Table(title="findings", box=box.SIMPLE_HEAD)
    table.add_column("severity", no_wrap=True)
    for name in ("count", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("what, where, and what to do", overflow="fold")
    for finding in checked.findings:
        where = f"\n{visible(placed(finding.places))}" if finding.places else ""
        said = Text.assemble(
            visible(_of_one(finding.said) if finding.count == 1 else finding.said), (where, "dim"), f"\n→ {finding.advice}"
        )
        style = STYLES[finding.severity]
        table.add_row(Text(finding.severity, style), f"{finding.count:,}", percent(finding.share), said)
    return table
