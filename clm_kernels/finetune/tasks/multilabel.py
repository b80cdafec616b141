"""Multi-label classification: any number of labels for every text, none among them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...defaults import LABELS
from ...errors import require
from ...escaping import cell
from ..judging.thresholds import calibrated, marked, marked_scores
from .base import Prediction, read_label, read_text
from .sequence import SequenceClassification

if TYPE_CHECKING:
    from torch import Tensor

    from ..config import Data
    from ..encode import Encoded
    from ..judging.calibration import Calibration
    from ..split import Split
    from .base import Score


class MultiLabelClassification(SequenceClassification):
    """The labels of a text stand in a list, or in a text that a separator divides; how they are ordered says nothing.

    The best checkpoint goes by micro F1, in which every label of every text counts alike, as accuracy has it: macro F1 goes up and
    down with each of the few validation texts of a rare label.
    """

    problem = "multi_label_classification"
    several = True
    fields = ("text", "labels", "probabilities")

    def columns(self, data: Data) -> tuple[str, str]:
        return data.text_column, data.labels_column

    def located(self, row: dict[str, Any], data: Data) -> tuple[dict[str, Any], tuple[str, str]]:
        column = data.label_column if data.labels_column not in row and data.label_column in row else data.labels_column
        value = row.get(column)
        if data.label_separator and isinstance(value, str):
            row = {**row, column: [part for part in map(str.strip, value.split(data.label_separator)) if part]}
        return row, (data.text_column, column)

    def fits(self, row: dict[str, Any], data: Data) -> bool:
        _, columns = self.located(row, data)
        asked = data.label_separator or data.labels_column != LABELS
        alone = data.label_column not in row or isinstance(row[data.label_column], list)
        return set(columns) <= set(row) and bool(asked or alone)

    def read(self, row: dict[str, Any], columns: tuple[str, str], place: str, labelled: bool) -> tuple[Any, Any]:
        text, label = columns
        read = read_text(row[text], place + text)
        if not labelled:
            return read, None
        listed = "a list of labels, or a text with a label_separator"
        require(isinstance(row[label], list), "read_split", place + label, listed, repr(row[label]))
        return read, sorted({read_label(name, place + label) for name in row[label]})

    def label(self, label: Any) -> list[str]:
        return label

    def stratum(self, label: Any) -> str:
        return ""

    def pairs(self, split: Split) -> Iterator[tuple[Any, Any]]:
        """A text once for each of its labels."""
        return ((text, name) for text, names in zip(split.texts, split.labels, strict=True) for name in names)

    def target(self, label: Any, number: Mapping[str, int]) -> list[float]:
        row = [0.0] * len(number)
        for name in label:
            row[number[name]] = 1.0
        return row

    def scores(self, label_names: Sequence[str]) -> tuple[str, ...]:
        return "micro_f1", "macro_f1", "exact_match"

    def predicted(self, logits: Tensor) -> Tensor:
        return logits

    def score(self, encoded: Encoded, label_names: Sequence[str]) -> Score:
        """At the thresholds that are best for these data themselves: those that validation chooses."""
        return lambda result: _scores(result, calibrated(result.predictions, result.label_ids > 0.5))

    def score_calibrated(self, encoded: Encoded, label_names: Sequence[str], calibration: Calibration | None) -> Score:
        return self.score(encoded, label_names) if calibration is None else lambda result: _scores(result, calibration)

    def decode(self, encoded: Encoded, i: int, numbers: Tensor, probabilities: Tensor, label_names: Sequence[str]) -> Prediction:
        """`numbers` says of each label whether it is above its threshold."""
        chosen = sorted(numbers.nonzero().flatten().tolist(), key=lambda number: -float(probabilities[number]))
        shares = [float(probabilities[number]) for number in chosen]
        made = Prediction(encoded.split.texts[i], [label_names[number] for number in chosen], shares)
        made.shares = probabilities
        return made

    def write(self, prediction: Prediction) -> str:
        """Labels and probabilities with ``|`` between them, ``-`` for none."""
        names = cell("|".join(prediction.label) or "-")
        shares = "|".join(f"{share:.4f}" for share in prediction.probability) or "-"
        return "\t".join([names, shares, cell(" ".join(prediction.text.split()))])


def _scores(result: Any, calibration: Calibration) -> dict[str, float]:
    return marked_scores(result.label_ids > 0.5, marked(result.predictions, calibration))
