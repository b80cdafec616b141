"""``clm-kernels demo``."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from .console import Console
from .quiet import quiet
from .told import Told


def demo(output: Annotated[str, typer.Option(help="Folder for the result.")] = "clm-demo") -> Told:
    """Fine-tune a real mini-encoder on text that ships with the package, and show what happened. Needs no network."""
    from ..demo import model_directory, run

    model_directory()
    quiet()
    from ..finetune.saying import to_stderr
    from . import show

    console = Console()
    outcome = run(output, to_stderr)
    config = outcome.sparse.config
    tables = [
        show.selection(outcome.sparse.selection, drawn=config["kind"] if config.get("select") == "random" else ""),
        show.scores(outcome.sparse),
    ]
    for table in [*tables, _comparison(outcome, show.size), _predictions(outcome)]:
        console.print(table)
    command = f'echo "my parcel never came" | clm-kernels predict --model {shlex.quote(output)}'
    console.print(f"try it: {command}", markup=False, soft_wrap=True)
    document = {
        "selection": asdict(outcome.sparse),
        "full": asdict(outcome.full),
        "seconds_of_an_epoch": {"selection": outcome.sparse_epoch, "full": outcome.full_epoch},
        "predictions": [{"text": found.text, "label": found.label, "gold": gold} for found, gold in outcome.predictions],
    }
    accuracies = (
        f"{name} {report.test['accuracy']:.4f}" for name, report in (("a selection", outcome.sparse), ("full", outcome.full))
    )
    return Told(document, f"test accuracy: {', '.join(accuracies)}")


def _comparison(outcome, size) -> Table:
    sparse, full = outcome.sparse, outcome.full
    table = Table(title="a selection beside full fine-tuning")
    for column in ("", "selection", "full"):
        table.add_column(column, justify="right" if column else "left")
    share = f"{sparse.trained:,} ({sparse.trained / sparse.parameters:.1%})"
    table.add_row("numbers trained", share, f"{full.trained:,}")
    ratio = f"{outcome.full_epoch / outcome.sparse_epoch:.2f} times faster"
    table.add_row("an epoch", f"{outcome.sparse_epoch:.1f} s, {ratio}", f"{outcome.full_epoch:.1f} s")
    table.add_row("test accuracy", f"{sparse.test['accuracy']:.1%}", f"{full.test['accuracy']:.1%}")
    table.add_row("what the task leaves", f"{size(sparse.sizes['delta'])} delta", f"{size(full.sizes['checkpoint'])} checkpoint")
    return table


def _predictions(outcome) -> Table:
    table = Table(title="some test messages")
    for column in ("message", "predicted", "", ""):
        table.add_column(column, overflow="fold")
    for prediction, gold in outcome.predictions:
        right = "✓" if prediction.label == gold else f"✗ it is {gold}"
        table.add_row(prediction.text, prediction.label, f"{prediction.probability:.2f}", right)
    return table
