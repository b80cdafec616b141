"""What the page tells: of a run its report and its words, and of what was predicted how good that is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from numpy.typing import NDArray

from ..judging.calibration import Bin, calibration_error, reliability
from ..judging.classes import ClassScore, Confused, class_scores, confusion, most_confused, span_class_scores
from ..judging.intervals import DRAWS, SEED, Interval, Scorer, bootstrap, scorers, tags_of
from ..judging.items import Items
from ..judging.logits import CUT_OFF
from ..judging.several import Marks, marked_classes, scorers_of_marks, swapped_labels, wrong_marks
from ..metrics import are_spans
from ..report import Report
from ..tasks import Task
from ..words.table import ActiveWords

if TYPE_CHECKING:
    from ..judging.evaluation import Compared

PAIRS, MISTAKES = 20, 40  # at most
COUNTED = 3_000_000  # texts, words or pairs that all draws of a bootstrap may take together
FEWEST = 100  # draws


class Mistake(NamedTuple):
    """One that was predicted wrong.

    Attributes:
        place: where it stands in the file.
        before, text, after: a text, or a word and the words around it.
        label: the right one; empty where a label is in excess.
        predicted: empty where a label is lacking, or the word was cut off.
        probability: of what was predicted; None for a word that was cut off.
        of_label: of the right label, likewise; None where there are several labels.
    """

    place: str
    before: str
    text: str
    after: str
    label: str
    predicted: str
    probability: float | None
    of_label: float | None


@dataclass(frozen=True)
class Judgement:
    """How good a classifier is on one part of the data.

    Attributes:
        part: ``test``, ``validation``, or a file's name.
        rows, items, unit: how many texts; how many of them, or of their words, have a label; what these are.
        cut_off: how many of them were not seen.
        scores: with their intervals, over so many `draws`; the one that counts first.
        label_names, matrix: of the confusion, with a last column of what was cut off; None where a text may have several labels.
        wrong: how many are, of which `mistakes` are the surest.
    """

    part: str
    rows: int
    items: int
    unit: str
    cut_off: int
    scores: Mapping[str, Interval]
    draws: int
    classes: list[ClassScore]
    label_names: list[str]
    matrix: NDArray | None
    confused: list[Confused]
    bins: list[Bin]
    wrong: int
    mistakes: list[Mistake]

    @property
    def calibration_error(self) -> float:
        return calibration_error(self.bins)

    @property
    def several(self) -> bool:
        """Whether a text may have several labels."""
        return self.matrix is None


@dataclass(frozen=True)
class Content:
    """All of the page.

    Attributes:
        name: of the run.
        report: of its training; None where a classifier was judged alone.
        words: by label, where they were watched.
        about: what was judged, where there is no report.
        notes: what is to be known of these numbers.
        compared: with another classifier.
    """

    name: str
    judged: Judgement | None
    report: Report | None = None
    words: ActiveWords | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    compared: Compared | None = None


class Drawn(NamedTuple):
    """Scores with their intervals, over so many draws."""

    scores: Mapping[str, Interval]
    draws: int

    @classmethod
    def of(cls, scored: Mapping[str, Scorer], texts: int, items: int) -> Drawn:
        """Fewer draws of many items, whose interval takes long and is narrow anyway."""
        draws = max(FEWEST, min(DRAWS, COUNTED // max(1, items)))
        return cls(bootstrap(scored, texts, draws, SEED), draws)


def judgement(found: Items | Marks, part: str, task: Task, drawn: Drawn | None = None) -> Judgement:
    """Of what was predicted; without intervals, they are drawn here."""
    if isinstance(found, Marks):
        return _of_marks(found, part, drawn)
    names, rows = found.label_names, len(found.split)
    drawn = drawn or Drawn.of(scorers(found, task.scores(names)), rows, len(found.gold))
    seen, right = found.seen, found.predicted == found.gold
    matrix = confusion(found.gold, found.predicted, len(names))
    tagged = found.per_word and are_spans(names)
    classes = span_class_scores(*tags_of(found)) if tagged else class_scores(found.gold, found.predicted, names)
    return Judgement(
        part, rows, len(found.gold), "words" if found.per_word else "texts", int((~seen).sum()), *drawn, classes, names,
        matrix, most_confused(matrix, names, PAIRS), reliability(found.probability[seen], right[seen]), int((~right).sum()),
        list(islice(_mistakes(found), MISTAKES)),
    )  # fmt: skip


def _of_marks(marked: Marks, part: str, drawn: Drawn | None) -> Judgement:
    rows, wrong = len(marked.split), wrong_marks(marked)
    drawn = drawn or Drawn.of(scorers_of_marks(marked), rows, marked.gold.size)
    bins = reliability(marked.probabilities.ravel(), marked.gold.ravel())
    return Judgement(
        part, rows, marked.gold.size, "pairs of text and label", 0, *drawn,
        marked_classes(marked.gold, marked.found, marked.label_names), marked.label_names, None,
        swapped_labels(marked, PAIRS), bins, len(wrong), list(_wrong_marks(marked, wrong[:MISTAKES])),
    )  # fmt: skip


def _mistakes(found: Items) -> Iterator[Mistake]:
    names, starts = found.label_names, found.text.searchsorted(range(len(found.split)))
    for i in found.surest_mistakes():
        row, label = int(found.text[i]), names[found.gold[i]]
        text, place = found.split.texts[row], str(found.split.where[row])
        before = after = ""
        if found.per_word:
            word = i - int(starts[row])
            before, text, after = " ".join(text[:word]), text[word], " ".join(text[word + 1 :])
        if found.predicted[i] == CUT_OFF:
            yield Mistake(place, before, text, after, label, "", None, None)
        else:
            shares = float(found.probability[i]), float(found.of_gold[i])
            yield Mistake(place, before, text, after, label, names[found.predicted[i]], *shares)


def _wrong_marks(marked: Marks, wrong: list[tuple[int, int]]) -> Iterator[Mistake]:
    for row, label in wrong:
        name, share = marked.label_names[label], float(marked.probabilities[row, label])
        given = bool(marked.found[row, label])
        sides = ("", name) if given else (name, "")
        yield Mistake(str(marked.split.where[row]), "", marked.split.texts[row], "", *sides, share, None)
