"""``clm-kernels predict``."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import require
from ..escaping import as_json as line_of_json
from ..finetune.config import Data
from ..finetune.tasks import TASKS, Task
from .errors import stderr
from .quiet import quiet
from .told import Told, prints_its_essence

if TYPE_CHECKING:
    from ..finetune.judging.calibration import Calibration
    from ..finetune.judging.ranking import Predicted

CHUNK = 4096
LONG = (
    "Texts beyond the limit: truncate, window (the mean over windows, or each word in one) or error; by default as in training."
)
Model = Annotated[str, typer.Option(help="Output of train or export; with --delta, the base model.", show_default=False)]
DeltaFile = Annotated[str, typer.Option(help="Delta or adapter file for the base model.", show_default=False)]


@prints_its_essence
def predict(
    model: Model,
    file: Annotated[
        str, typer.Argument(help="Lines of text (.txt) or a table as for train; -: lines from standard input.")
    ] = "-",
    delta: DeltaFile = "",
    jsonl: Annotated[bool, typer.Option("--jsonl", help="One JSON object a line, with full precision.")] = False,
    text_column: Annotated[str, typer.Option(help="Column of the text, if another than in training.", show_default=False)] = "",
    tokens_column: Annotated[str, typer.Option(help="Column of the words, likewise.", show_default=False)] = "",
    delimiter: Annotated[
        str, typer.Option(help="What divides the fields of a .csv or .tsv, if another than is found.", show_default=False)
    ] = "",
    batch_size: Annotated[int, typer.Option(help="Texts in a batch.", min=1)] = 64,
    long: Annotated[str | None, typer.Option(help=LONG, show_default=False)] = None,
    top: Annotated[int, typer.Option(help="How many of the best labels to print, each with its probability.", min=1)] = 1,
    reject: Annotated[
        float | None, typer.Option(help="Precision wanted on validation; no label (-) where it would be less.")
    ] = None,
    out_of_scope: Annotated[
        bool, typer.Option("--out-of-scope", help="Mark texts about none of the labels; 95 % of validation's stay.")
    ] = False,
    as_json: bool = False,
) -> Told:
    """Print the label and its probability for every text, or the tag of every word.

    Plain output: label, probability and text, separated by tabs; with --top the next best labels before the text; of several
    labels all, with | between them, and - for none. Token
    classification: word, tag and probability a line, an empty line after each text. It is for people and spreadsheets: control
    characters are escaped, and a value that would be a formula has ' before it. --jsonl is exact; --json
    too, but it keeps all predictions in memory.
    """
    quiet()
    from ..finetune import Classifier

    classifier = Classifier.load(model, delta)
    task = TASKS[classifier.task]
    if reject is not None and not (task.per_token or task.several):
        stderr.print(_expected(classifier.calibration, reject), markup=False)
    if out_of_scope and (scope := classifier.scope):
        kept = f"{scope.kept:.1%} of {scope.rows:,} validation texts are not"
        stderr.print(f"out of scope below a cosine of {scope.threshold:.3f}: {kept}", markup=False)
    asked = {"text_column": text_column, "tokens_column": tokens_column, "delimiter": delimiter}
    texts = _texts(file, task, Data(**classifier.columns | {name: value for name, value in asked.items() if value}))
    predictions: list[dict[str, Any]] = []
    while chunk := list(islice(texts, CHUNK)):
        for prediction in classifier.predict(chunk, batch_size, top=top, reject=reject, out_of_scope=out_of_scope, long=long):
            if as_json:
                predictions.append(_named(prediction, task))
            else:
                print(line_of_json(_named(prediction, task)) if jsonl else task.write(prediction))
    if cut := classifier.cut:
        unit, were, have = (task.unit.removesuffix("s"), "was", "has") if cut == 1 else (task.unit, "were", "have")
        what = f"{unit} {were} cut off{f' and {have} no tag' * task.per_token}"
        stderr.print(f"{cut} {what}: more than {classifier.max_length} tokens", markup=False)
    return Told({"predictions": predictions, "cut_off": cut, "max_length": classifier.max_length}, None)


def _texts(file: str, task: Task, data: Data) -> Iterator[Any]:
    from ..finetune.examples import read_examples

    if file == "-":
        yield from _of_lines(sys.stdin.buffer, "standard input", task)
    elif Path(file).suffix == ".txt":
        require(Path(file).is_file(), "predict", "file", "an existing file", repr(file))
        with open(file, "rb") as source:
            for _ in _of_lines(source, file, task):
                pass  # as a table below
            source.seek(0)
            yield from _of_lines(source, file, task)
    else:
        data.check()
        for _ in read_examples(file, task, data, labelled=False):
            pass  # a table with an error gets no predictions at all, and is not kept in memory for that
        yield from (text for _, text, _ in read_examples(file, task, data, labelled=False))


def _of_lines(source: Iterable[bytes], name: str, task: Task) -> Iterator[Any]:
    from ..finetune.asked import text_of
    from ..finetune.files import read_lines

    for number, line in enumerate(read_lines(source, name), start=1):
        yield text_of("predict", line, task, f"{name}, line {number}")


def _named(prediction: Predicted, task: Task) -> dict[str, Any]:
    named = dict(zip(task.fields, prediction[:3], strict=True))
    if best := getattr(prediction, "best", None):
        named["best"] = [{"label": label, "probability": probability} for label, probability in best]
    if (outside := getattr(prediction, "out_of_scope", None)) is not None:
        named["out_of_scope"] = outside
    return named | {"truncated": True} if prediction.truncated else named


def _expected(calibration: Calibration, precision: float) -> str:
    kept = calibration.threshold(precision)
    return (
        f"no label below {kept.threshold:.3f}: of {calibration.rows:,} validation texts {kept.rows / calibration.rows:.1%} "
        f"keep theirs, and {kept.precision:.1%} of these are right"
    )
