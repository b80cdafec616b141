"""`evaluate`: how good a classifier is on a labelled file, where it errs, and what its probabilities are worth."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import require
from ..artifacts import RUN
from ..classifier import Classifier
from ..config import Data
from ..data import check_known, read_split
from ..encode import Encoded, check_cuts
from ..metrics import are_spans
from ..outputs import read_json
from ..split import Split
from ..tasks import TASKS
from ..windows import check_long
from .calibration import Bin, calibration_error, reliability, softmax
from .carried import MOST, carrying_words
from .classes import ClassScore, Confused, class_scores, confusion, most_confused, span_class_scores
from .intervals import DRAWS, LEVEL, SEED, Difference, Interval, McNemar, bootstrap, mcnemar, paired_bootstrap, scorers, tags_of
from .items import Items
from .keeping import error_at
from .logits import Judged, all_logits, judged
from .mislabels import Mislabel, likely_mislabels
from .several import (
    Marks,
    bins_of_marks,
    doubtful_marks,
    error_of_marks,
    marked_classes,
    marks,
    scorers_of_marks,
    swapped_labels,
    wrong_marks,
)  # fmt: skip

CONFUSED = 50  # pairs of labels that are kept


@dataclass
class Evaluation:
    """How good a classifier is on a labelled file.

    Attributes:
        model, data: what was judged on what.
        task: as `Classifier` has it.
        rows, items, unit: how many texts; how many of them, or of their words, have a label; what these are.
        cut_off: how many of them the classifier has not seen, for the text was too long; they count as missed.
        scores: accuracy and macro F1, or F1 of spans and accuracy, or micro and macro F1 and the exact match of several labels,
            each with the interval of its bootstrap.
        draws, seed, level: of the bootstrap, which draws texts.
        classes: a line for each label, or each type of span.
        confused: the pairs of labels that were taken for each other most often.
        temperature: of the probabilities.
        calibration_error, uncalibrated_error: expected calibration error with it, and at temperature 1.
        bins: what `calibration_error` is made of.
        errors, mislabels: how many lines ``errors.csv`` and ``mislabels.csv`` have.
        notes: what is to be known of these numbers.
        output: the folder that it was left in.
        compared: with another classifier: the differences of its scores, and McNemar's test for texts.
        thresholds: where a text may have several labels, from which probability on it is given each. Items are then pairs of a
            text and a label, and `confused` counts texts that lack one label and have another in excess.
    """

    model: str
    data: str
    task: str
    rows: int
    items: int
    unit: str
    cut_off: int
    scores: dict[str, Interval]
    classes: list[ClassScore]
    confused: list[Confused]
    temperature: float
    calibration_error: float
    uncalibrated_error: float
    bins: list[Bin]
    errors: int
    mislabels: int
    draws: int = DRAWS
    seed: int = SEED
    level: float = LEVEL
    notes: list[str] = field(default_factory=list)
    output: str = ""
    compared: Compared | None = None
    thresholds: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> str:
        """All of it as one JSON object; a line of `classes`, `confused` and `bins` is an object too."""
        return json.dumps(_plain(asdict(self)), ensure_ascii=False, indent=2)


@dataclass
class Compared:
    """Another classifier on the same texts: what it scores more, and for texts McNemar's exact test of the accuracy."""

    model: str
    differences: dict[str, Difference]
    mcnemar: McNemar | None


@dataclass(frozen=True)
class Found:
    """An evaluation and all that it was made of."""

    evaluation: Evaluation
    judged: Judged
    probabilities: Any
    matrix: Any
    mislabels: list[Mislabel]
    words: dict[int, list[str]]  # of the surest mistakes: what carried the label that was given


@dataclass(frozen=True)
class FoundSeveral:
    """The same where a text may have several labels."""

    evaluation: Evaluation
    marked: Marks


def judge(
    model: str, data: str, delta: str = "", other: str = "", columns: dict[str, str] | None = None, batch_size: int = 64,
    draws: int = DRAWS, seed: int = SEED, long: str | None = None,
) -> Found | FoundSeveral:  # fmt: skip
    """What `evaluate` says and writes; nothing is written."""
    classifier = Classifier.load(model, delta)
    folder = Path(delta).parent if delta else Path(model)
    check_long("evaluate", classifier.long if long is None else long)
    split = _read(data, classifier, columns or {})
    if TASKS[classifier.task].several:
        return _judge_several(classifier, split, str(delta or model), folder, data, other, batch_size, draws, seed, long)
    found = _judged(classifier, split, batch_size, long)
    scores = scorers(found, TASKS[classifier.task].scores(classifier.label_names))
    probabilities = softmax(found.logits, classifier.calibration.temperature)
    matrix = confusion(found.gold, found.predicted, len(found.label_names))
    seen = np.flatnonzero(found.seen)
    wrong = [line._replace(i=int(seen[line.i])) for line in likely_mislabels(found.gold[seen], probabilities[seen])]
    bins = reliability(probabilities[seen].max(-1), (found.predicted == found.gold)[seen])
    evaluation = Evaluation(
        str(delta or model), str(data), classifier.task, len(split), len(found.gold), "words" if found.per_word else "texts",
        int((~found.seen).sum()), bootstrap(scores, len(split), draws, seed), _classes(found),
        most_confused(matrix, found.label_names, CONFUSED), classifier.calibration.temperature, calibration_error(bins),
        error_at(found, 1.0), bins, int((found.predicted != found.gold).sum()), len(wrong), draws, seed, notes=_notes(folder, data),
    )  # fmt: skip
    if other:
        evaluation.compared = _compare(found, scores, other, split, batch_size, draws, seed, long)
    in_windows = (long or classifier.long) == "window"
    return Found(
        evaluation, found, probabilities, matrix, wrong, {} if in_windows else _carried(classifier, found, probabilities)
    )


def _carried(classifier: Classifier, found: Judged, probabilities: Any) -> dict[int, list[str]]:
    surest = list(islice((i for i in Items.of(found, probabilities).surest_mistakes() if found.seen[i]), MOST))
    rows = found.text[surest].tolist() if surest else []
    places = [i - int(np.searchsorted(found.text, row)) for i, row in zip(surest, rows, strict=True)] if found.per_word else None
    named = carrying_words(classifier, found.split.part(rows), found.predicted[surest].tolist(), places) if surest else []
    return dict(zip(surest, named, strict=True))


def _judge_several(
    classifier: Classifier, split: Split, model: str, folder: Path, data: str, other: str, batch_size: int, draws: int, seed: int,
    long: str | None,
) -> FoundSeveral:  # fmt: skip
    found, logits = _marks(classifier, split, batch_size, long)
    scores, kept = scorers_of_marks(found), classifier.calibration
    bins = bins_of_marks(logits, found.gold, kept.temperature)
    evaluation = Evaluation(
        model, data, classifier.task, len(split), found.gold.size, "pairs of text and label", 0,
        bootstrap(scores, len(split), draws, seed), marked_classes(found.gold, found.found, found.label_names),
        swapped_labels(found, CONFUSED), kept.temperature, calibration_error(bins), error_of_marks(logits, found.gold, 1.0), bins,
        len(wrong_marks(found)), len(doubtful_marks(found)), draws, seed, notes=_notes(folder, data),
        thresholds=dict(zip(found.label_names, kept.thresholds, strict=True)),
    )  # fmt: skip
    if other:
        second = Classifier.load(other)
        same = TASKS[second.task].several
        require(same, "evaluate", "compare", "a classifier of the same task", f"one for {second.task} classification")
        theirs, _ = _marks(second, split, batch_size, long)
        differences = paired_bootstrap(scores, scorers_of_marks(theirs), len(split), draws, seed)
        right = [(each.gold == each.found).all(1) for each in (found, theirs)]
        evaluation.compared = Compared(str(other), differences, mcnemar(*right))
    return FoundSeveral(evaluation, found)


def _marks(classifier: Classifier, split: Split, batch_size: int, long: str | None) -> tuple[Marks, Any]:
    """What it makes of the texts, and its logits."""
    encoded = _encoded(classifier, split, long)
    logits = all_logits(classifier.model, encoded, classifier.tokenizer, batch_size)
    gold, names = marks(encoded.split.labels, classifier.label_names), classifier.label_names
    return Marks.of(names, encoded.split, gold, logits, classifier.calibration), logits


def _encoded(classifier: Classifier, split: Split, long: str | None) -> Encoded:
    """Without `long` as its own run read long texts, which of two that are compared may be another way for each."""
    long = classifier.long if long is None else long
    task, names = TASKS[classifier.task], classifier.label_names
    check_known("evaluate", split, task, names, "with what the classifier has learnt")
    encoded = task.encode(split, names, classifier.tokenizer, classifier.max_length, True, classifier.template, long)
    if long == "error":
        check_cuts("evaluate", encoded, task.unit, classifier.max_length)
    return encoded


def _judged(classifier: Classifier, split: Split, batch_size: int, long: str | None) -> Judged:
    task, encoded = TASKS[classifier.task], _encoded(classifier, split, long)
    return judged(classifier.model, encoded, task, classifier.tokenizer, classifier.label_names, batch_size)


def _read(data: str, classifier: Classifier, columns: dict[str, str]) -> Split:
    """The labelled texts; columns that are not given are those that the run was trained on."""
    given: dict[str, Any] = {name: column for name, column in columns.items() if column}
    return read_split(data, TASKS[classifier.task], Data(**classifier.columns | given))


def _classes(found: Judged) -> list[ClassScore]:
    if found.per_word and are_spans(found.label_names):
        return span_class_scores(*tags_of(found))
    return class_scores(found.gold, found.predicted, found.label_names)


def _compare(
    found: Judged, scores: Any, other: str, split: Split, batch_size: int, draws: int, seed: int, long: str | None
) -> Compared:  # fmt: skip
    second = Classifier.load(other)
    same = TASKS[second.task].per_token == found.per_word and not TASKS[second.task].several
    require(same, "evaluate", "compare", "a classifier of the same task", f"one for {second.task} classification")
    theirs = _judged(second, split, batch_size, long)
    names = [name for name in scores if name in TASKS[second.task].scores(second.label_names)]
    first, another = {name: scores[name] for name in names}, scorers(theirs, names)
    right = found.gold == found.predicted, theirs.gold == theirs.predicted
    test = None if found.per_word else mcnemar(*right)  # words of one sentence do not err independently
    return Compared(str(other), paired_bootstrap(first, another, len(split), draws, seed), test)


def _notes(folder: Path, data: str) -> list[str]:
    """Says so where the classifier has been trained or chosen on these very data."""
    if not (folder / RUN).is_file():
        return []
    record = read_json(folder / RUN)["data"]
    mark = hashlib.sha256(Path(data).read_bytes()).hexdigest()
    parts = {
        "train": "these are the training data: scores, probabilities and likely mislabels say nothing of other texts",
        "validation": "these are the validation data, which chose the checkpoint and its temperature",
    }
    return [said for part, said in parts.items() if record.get(part, {}).get("sha256") == mark]


def _plain(value: Any) -> Any:
    """Named tuples as objects."""
    if hasattr(value, "_asdict"):
        return {name: _plain(each) for name, each in value._asdict().items()}
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, Sequence) and not isinstance(value, str) else value
