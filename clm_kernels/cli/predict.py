"""``clm-kernels predict`` and ``clm-kernels export``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import require
from ..finetune.config import Data
from ..finetune.tasks import TASKS, Task
from ..finetune.tasks.base import Prediction
from .errors import stderr
from .quiet import quiet

CHUNK = 4096
Model = Annotated[str, typer.Option(help="Output of train or export; with --delta, the base model.", show_default=False)]
DeltaFile = Annotated[str, typer.Option(help="Delta or adapter file for the base model.", show_default=False)]


def predict(
    model: Model,
    file: Annotated[
        str, typer.Argument(help="Lines of text (.txt) or a table as for train; -: lines from standard input.")
    ] = "-",
    delta: DeltaFile = "",
    jsonl: Annotated[bool, typer.Option("--jsonl", help="One JSON object a line, with full precision.")] = False,
    text_column: Annotated[str, typer.Option(help="Column of the text.")] = "text",
    tokens_column: Annotated[str, typer.Option(help="Column of the words.")] = "tokens",
    batch_size: Annotated[int, typer.Option(help="Texts in a batch.", min=1)] = 64,
) -> None:
    """Print the label and its probability for every text, or the tag of every word.

    Plain output: label, probability and text, separated by tabs. Token classification: word, tag and probability a
    line, an empty line after each text.
    """
    quiet()
    from ..finetune import Classifier

    classifier = Classifier.load(model, delta)
    task = TASKS[classifier.task]
    texts = _texts(file, task, text_column, tokens_column)
    while chunk := list(islice(texts, CHUNK)):
        for prediction in classifier.predict(chunk, batch_size):
            print(_as_json(prediction, task) if jsonl else task.write(prediction))
    if cut := classifier.cut:
        what = f"{task.unit} were cut off{' and have no tag' * task.per_token}"
        stderr.print(f"{cut} {what}: more than {classifier.max_length} tokens", markup=False)


def export(
    model: Model,
    output: Annotated[str, typer.Option(help="New folder for the checkpoint.", show_default=False)],
    delta: DeltaFile = "",
) -> None:
    """Merge a delta or an adapter into its base: a checkpoint that plain transformers loads, with the same predictions."""
    quiet()
    from ..finetune import Classifier

    Classifier.load(model, delta).export(output)
    print(f"saved: {output}")


def _texts(file: str, task: Task, text_column: str, tokens_column: str) -> Iterator[Any]:
    from ..finetune.data import read_examples
    from ..finetune.files import read_lines

    if file == "-":
        yield from map(task.read_line, read_lines(sys.stdin.buffer, "standard input"))
    elif Path(file).suffix == ".txt":
        require(Path(file).is_file(), "predict", "file", "an existing file", repr(file))
        with open(file, "rb") as source:
            yield from map(task.read_line, read_lines(source, file))
    else:
        data = Data(text_column=text_column, tokens_column=tokens_column)
        for _ in read_examples(file, task, data, labelled=False):
            pass  # a table with an error gets no predictions at all, and is not kept in memory for that
        yield from (text for _, text, _ in read_examples(file, task, data, labelled=False))


def _as_json(prediction: Prediction, task: Task) -> str:
    return json.dumps(dict(zip(task.fields, prediction, strict=True)), ensure_ascii=False)
