"""``clm-kernels evaluate``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from .errors import stderr
from .predict import LONG, DeltaFile
from .quiet import quiet
from .told import Told


def evaluate(
    model: Annotated[str, typer.Argument(help="Output of train or export; with --delta, the base model.", show_default=False)],
    data: Annotated[str, typer.Argument(help="Labelled file, as for train; of a folder, its test part.", show_default=False)],
    output: Annotated[
        str, typer.Option(help="Folder for tables and pictures; by default evaluation-NAME in the run's.", show_default=False)
    ] = "",
    delta: DeltaFile = "",
    compare: Annotated[str, typer.Option(help="Another classifier, to be compared on the same data.", show_default=False)] = "",
    text_column: Annotated[str, typer.Option(help="Column of the text, if another than in training.", show_default=False)] = "",
    label_column: Annotated[str, typer.Option(help="Column of the label, likewise.", show_default=False)] = "",
    tokens_column: Annotated[str, typer.Option(help="Column of the words, likewise.", show_default=False)] = "",
    tags_column: Annotated[str, typer.Option(help="Column of the tags, likewise.", show_default=False)] = "",
    labels_column: Annotated[str, typer.Option(help="Column of the list of labels, likewise.", show_default=False)] = "",
    label_separator: Annotated[str, typer.Option(help="What divides labels in one text, likewise.", show_default=False)] = "",
    delimiter: Annotated[str, typer.Option(help="What divides the fields of a .csv or .tsv, likewise.", show_default=False)] = "",
    long: Annotated[str | None, typer.Option(help=LONG, show_default=False)] = None,
    batch_size: Annotated[int, typer.Option(help="Texts in a batch.", min=1)] = 64,
    draws: Annotated[int, typer.Option(help="Draws of texts for the intervals.", min=1)] = 1000,
    seed: Annotated[int, typer.Option(help="Of these draws.")] = 1,
) -> Told:
    """Say how good a classifier is on a labelled file, where it errs, and what its probabilities are worth.

    Leaves tables and pictures in a folder: classes, confusion, the surest errors, labels that are likely wrong.
    """
    quiet()
    from ..finetune.judging.writing import evaluate as run
    from . import show_evaluation as show
    from .console import Console

    columns = {
        "text_column": text_column,
        "label_column": label_column,
        "tokens_column": tokens_column,
        "tags_column": tags_column,
        "labels_column": labels_column,
        "label_separator": label_separator,
        "delimiter": delimiter,
    }
    found = run(
        model, data, output, delta=delta, compare=compare, columns=columns, batch_size=batch_size, draws=draws, seed=seed, long=long,
        say=lambda line: stderr.print(line, markup=False),
    )  # fmt: skip
    console = Console()
    for table in show.tables(found):
        console.print(table)
    for line in show.lines(found):
        console.print(line, markup=False, highlight=False)
    scores = (f"{name} {values.score:.4f} ({values.low:.4f} to {values.high:.4f})" for name, values in found.scores.items())
    return Told(json.loads(found.to_json()), ", ".join(scores))
