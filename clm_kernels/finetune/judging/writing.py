"""`evaluate`, and the folder that it leaves."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import require
from ...escaping import cell, visible
from ..artifacts import PAGE
from ..disks import filling
from ..outputs import write_folder
from ..page.writing import write_judged
from ..parts import part_of_test
from .confusion_picture import draw_confusion
from .evaluation import Evaluation, Found, FoundSeveral, judge
from .intervals import DRAWS, SEED
from .items import Items
from .logits import CUT_OFF, Judged
from .reliability_picture import draw_reliability
from .several import doubtful_marks, wrong_marks

EVALUATION = "evaluation.json"


def evaluate(
    model: str | Path, data: str | Path, output: str | Path = "", *, delta: str | Path = "", compare: str | Path = "",
    columns: dict[str, str] | None = None, batch_size: int = 64, draws: int = DRAWS, seed: int = SEED, long: str | None = None,
    say: Callable[[str], None] = print,
) -> Evaluation:  # fmt: skip
    """Judges a classifier on a labelled file, and leaves a folder with all that can be said of it.

    That is ``evaluation.json`` with scores, their intervals, classes and calibration; ``classes.csv``, ``confusion.csv``,
    ``errors.csv`` (the surest mistakes first) and ``mislabels.csv`` (labels that are likely wrong, the likeliest first);
    ``report.html``, which shows most of it on one page; and, if matplotlib is installed, ``confusion.png`` and
    ``reliability.png``. Where a text may have several labels there is no confusion matrix.

    Args:
        model: what `Classifier.load` takes.
        data: a labelled file, as for `train`; of a folder of parts, its test part.
        output: folder; by default ``evaluation-NAME`` in the run's, with the data's name.
        delta: as `Classifier.load` takes it.
        compare: another classifier, to be compared on the same data.
        columns: of the file, by `TrainConfig`'s names (``text_column`` …), where they are others than in training.
        batch_size: texts in a batch.
        draws: of the bootstrap.
        seed: of the bootstrap.
        long: what becomes of texts beyond the classifier's limit, as `Classifier.predict` takes it.
        say: takes a line about what is left out.

    Raises:
        ValueError: for files that cannot be right, a label that the classifier does not know, and a folder of something else.
    """
    data = part_of_test(str(data))
    beside = Path(delta).parent if delta else Path(model)
    folder = Path(output) if str(output) else beside / f"evaluation-{Path(data).stem}"
    ours = not folder.is_dir() or ((folder / EVALUATION).is_file() or not any(folder.iterdir()))
    require(ours, "evaluate", "output", "a new folder, or one of a former evaluation", repr(str(folder)))
    with filling(folder, "evaluate"):
        found = judge(str(model), str(data), str(delta), str(compare), columns, batch_size, draws, seed, long)
        found.evaluation.output = str(folder)
        if isinstance(found, FoundSeveral):
            write_folder(folder, partial(_write_several, found, say=say))
        else:
            write_folder(folder, partial(_write, found, say=say))
    return found.evaluation


def _write(found: Found, folder: Path, say: Callable[[str], None]) -> None:
    evaluation, judged = found.evaluation, found.judged
    (folder / EVALUATION).write_text(evaluation.to_json() + "\n", encoding="utf-8")
    names = judged.label_names
    _table(folder / "classes.csv", ("label", "precision", "recall", "f1", "support", "predicted"), evaluation.classes)
    rows = ([name, *counts] for name, counts in zip(names, found.matrix.tolist(), strict=True))
    _table(folder / "confusion.csv", ("gold \\ predicted", *names, "(cut off)"), rows)
    places = ("place", "word number", "word", "sentence") if judged.per_word else ("place", "text")
    _table(folder / "errors.csv", (*places, "label", "predicted", "probability", "label's probability", "words"), _errors(found))
    suggestions = (
        [*_where(judged, line.i), names[line.given], names[line.suggested], line.margin] for line in found.mislabels
    )  # fmt: skip
    _table(folder / "mislabels.csv", (*places, "label", "suggested", "margin"), suggestions)
    try:
        draw_confusion(found.matrix[:, : len(names)], [visible(name) for name in names], folder / "confusion.png")
        draw_reliability(evaluation.bins, folder / "reliability.png", evaluation.unit)
    except ImportError as error:
        say(f"pictures left out: {error}")
    write_judged(folder / PAGE, Items.of(judged, found.probabilities), evaluation, say)


def _write_several(found: FoundSeveral, folder: Path, say: Callable[[str], None]) -> None:
    evaluation, marked = found.evaluation, found.marked
    (folder / EVALUATION).write_text(evaluation.to_json() + "\n", encoding="utf-8")
    names, texts, places = marked.label_names, marked.split.texts, marked.split.where
    classes = ([*line, evaluation.thresholds[line.label]] for line in evaluation.classes)
    _table(folder / "classes.csv", ("label", "precision", "recall", "f1", "support", "predicted", "threshold"), classes)
    errors = (
        [places[i], texts[i], names[label], "in excess" if marked.found[i, label] else "lacking", float(marked.probabilities[i, label])]
        for i, label in wrong_marks(marked)
    )  # fmt: skip
    _table(folder / "errors.csv", ("place", "text", "label", "predicted", "label's probability"), errors)
    doubtful = (
        [places[i], texts[i], names[label], "without it" if marked.gold[i, label] else "with it", margin]
        for i, label, margin in doubtful_marks(marked)
    )
    _table(folder / "mislabels.csv", ("place", "text", "label", "suggested", "margin"), doubtful)
    try:
        draw_reliability(evaluation.bins, folder / "reliability.png", evaluation.unit)
    except ImportError as error:
        say(f"pictures left out: {error}")
    write_judged(folder / PAGE, marked, evaluation, say)


def _errors(found: Found) -> Iterable[list[Any]]:
    """The surest first; words that were cut off last, without a prediction."""
    judged, predicted = found.judged, found.judged.predicted
    wrong = np.flatnonzero(predicted != judged.gold)
    probability = np.where(judged.seen, found.probabilities.max(-1), 0.0)
    for i in wrong[np.argsort(-probability[wrong], kind="stable")].tolist():
        label = judged.label_names[judged.gold[i]]
        if predicted[i] == CUT_OFF:
            yield [*_where(judged, i), label, "", "", "", ""]
        else:
            shares = float(probability[i]), float(found.probabilities[i, judged.gold[i]])
            yield [*_where(judged, i), label, judged.label_names[predicted[i]], *shares, " ".join(found.words.get(i, []))]


def _where(judged: Judged, i: int) -> list[Any]:
    row = int(judged.text[i])
    text, place = judged.split.texts[row], judged.split.where[row]
    if not judged.per_word:
        return [place, text]
    word = i - int(np.searchsorted(judged.text, row))
    return [place, word + 1, text[word], " ".join(text)]


def _table(path: Path, header: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(cell(name) for name in header)
        writer.writerows([_cell(value) for value in row] for row in rows)


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.6f}"
    return cell(value) if isinstance(value, str) else value
