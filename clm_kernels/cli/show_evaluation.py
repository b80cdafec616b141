"""Tables about an evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from ..escaping import visible
from .console import folded

CLASSES, CONFUSED = 20, 10  # lines, at most
LABEL, PAIR = 36, 28  # characters of a label, alone and beside another


def tables(found: Any) -> Iterator[Table]:
    """Scores, the comparison, the worst classes, and what is taken for what."""
    yield _scores(found)
    if found.compared:
        yield _compared(found.compared)
    yield classes(found.classes)
    if found.confused:
        yield _confused(found.confused[:CONFUSED])


def lines(found: Any) -> Iterator[str]:
    """What needs no table."""
    better = f"calibration error {found.calibration_error:.3f} at temperature {found.temperature:.2f}"
    yield better if found.temperature == 1 else f"{better}, {found.uncalibrated_error:.3f} without it"
    yield f"{found.errors:,} of {found.items:,} {found.unit} wrong (errors.csv), {found.mislabels:,} likely mislabelled (mislabels.csv)"
    if found.cut_off:
        one = found.cut_off == 1
        unit = found.unit.removesuffix("s") if one else found.unit
        yield f"{found.cut_off:,} {unit} {'was cut off and counts' if one else 'were cut off and count'} as missed"
    yield from found.notes
    if found.output:
        yield f"saved: {found.output}"


def _scores(found: Any) -> Table:
    caption = f"{found.rows:,} texts; {found.level:.0%} intervals of {found.draws:,} draws with seed {found.seed}"
    table = Table(title="scores", caption=caption, box=box.SIMPLE_HEAD)
    for heading in ("", "score", "from", "to"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, values in found.scores.items():
        table.add_row(name.replace("_", " "), *(f"{value:.4f}" for value in values))
    return table


def _compared(other: Any) -> Table:
    test = other.mcnemar
    caption = None
    if test:
        caption = f"McNemar: {test.only_first} right here alone, {test.only_second} there alone, p = {test.p:.2g}"
    table = Table(title=Text(f"{visible(other.model)} beside it"), caption=caption, box=box.SIMPLE_HEAD)
    for heading in ("", "more", "from", "to", "p"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, (*values, p) in other.differences.items():
        table.add_row(name.replace("_", " "), *(f"{value:+.4f}" for value in values), f"{p:.2g}")
    return table


def classes(scores: Sequence[Any], title: str = "classes", rest: str = "classes.csv") -> Table:
    """The worst ones first, by F1, where there are more than fit."""
    shown = sorted(scores, key=lambda line: line.f1) if len(scores) > CLASSES else scores
    left_out = len(scores) - CLASSES
    caption = f"the worst first; {left_out:,} better ones in {rest}" if left_out > 0 else None
    table = Table(title=title, caption=caption, box=box.SIMPLE_HEAD)
    table.add_column("label", overflow="fold", max_width=LABEL)
    for heading in ("precision", "recall", "F1", "support"):
        table.add_column(heading, justify="right", no_wrap=True)
    for line in shown[:CLASSES]:
        shares = (f"{value:.3f}" for value in (line.precision, line.recall, line.f1))
        table.add_row(Text(folded(line.label, LABEL)), *shares, f"{line.support:,}")
    return table


def _confused(pairs: list[Any]) -> Table:
    table = Table(title="taken for another most often", box=box.SIMPLE_HEAD)
    for heading in ("gold", "predicted"):
        table.add_column(heading, overflow="fold", max_width=PAIR)
    table.add_column("of", justify="right", no_wrap=True)
    for pair in pairs:
        table.add_row(*(Text(folded(name, PAIR)) for name in pair[:2]), f"{pair.errors:,} of {pair.support:,}")
    return table
