"""Sequence classification: a label for every text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...defaults import LABELS
from ...escaping import cell
from ..encode import Encoded, longest_first, with_lengths
from ..metrics import accuracy, macro_f1
from ..templates import TEXT, fill
from ..windows import Windows, windows_of
from .base import Prediction, Task, read_label, read_text

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from ..config import Data
    from ..split import Split
    from .base import Score


OUT_OF_SCOPE = "(out of scope)"


class SequenceClassification(Task):
    auto = "AutoModelForSequenceClassification"
    architecture = "ForSequenceClassification"
    peft = "SEQ_CLS"
    problem = "single_label_classification"

    def columns(self, data: Data) -> tuple[str, str]:
        return data.text_column, data.label_column

    def fits(self, row: dict[str, Any], data: Data) -> bool:
        asked = data.label_separator or data.labels_column != LABELS
        return super().fits(row, data) and not asked and not isinstance(row[self.columns(data)[1]], list)

    def read(self, row: dict[str, Any], columns: tuple[str, str], place: str, labelled: bool) -> tuple[Any, Any]:
        text, label = columns
        return read_text(row[text], place + text), read_label(row[label], place + label) if labelled else None

    def read_line(self, line: str) -> Any:
        return line

    def label(self, label: Any) -> list[str]:
        return [label]

    def stratum(self, label: Any) -> str:
        return label

    def written(
        self, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int, template: str = TEXT
    ) -> tuple[Sequence[str], int]:  # fmt: skip
        return (texts, 0) if template == TEXT else fill(template, texts, tokenizer, max_length)

    def encode(
        self,
        split: Split,
        label_names: Sequence[str] | None,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        sort: bool,
        template: str = TEXT,
        long: str = "truncate",
    ) -> Encoded:
        if sort:
            split = longest_first(split, len)
        number = {name: i for i, name in enumerate(label_names or ())}

        def some(texts: list[str], labels: list[str]) -> tuple[dict[str, Any], list[bool]]:
            written, shortened = self.written(texts, tokenizer, max_length, template)
            batch = tokenizer(written, truncation=True, max_length=max_length)
            columns = with_lengths(batch, max_length)
            if label_names is not None:
                columns["labels"] = [self.target(label, number) for label in labels]
            cut = [bool(encoding.overflowing) for encoding in batch.encodings]
            if shortened:
                cut = [own or after != template.replace(TEXT, text) for own, after, text in zip(cut, written, texts, strict=True)]
            return columns, cut

        windows = self.windows(split, tokenizer, max_length, template) if long == "window" else None
        return Encoded.in_windows(split, windows, some) if windows is not None and windows.long else Encoded.of(split, some)

    def windows(self, split: Split, tokenizer: PreTrainedTokenizerBase, max_length: int, template: str = TEXT) -> Windows:
        return windows_of(split, tokenizer, max_length, template)

    def target(self, label: Any, number: Mapping[str, int]) -> Any:
        """What the loss takes of a text's label; `number` tells the names' places."""
        return number[label]

    def collate(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], Any]:
        from transformers import DataCollatorWithPadding

        return DataCollatorWithPadding(tokenizer)

    def scores(self, label_names: Sequence[str]) -> tuple[str, ...]:
        return "accuracy", "macro_f1"

    def score(self, encoded: Encoded, label_names: Sequence[str]) -> Score:
        gold = encoded.split.labels

        def compute(result):
            predicted = [label_names[i] for i in result.predictions]
            return {"accuracy": accuracy(gold, predicted), "macro_f1": macro_f1(gold, predicted)}

        return compute

    def decode(self, encoded: Encoded, i: int, numbers: Tensor, probabilities: Tensor, label_names: Sequence[str]) -> Prediction:
        return Prediction(encoded.split.texts[i], label_names[int(numbers)], float(probabilities))

    def write(self, prediction: Prediction) -> str:
        outside, further = getattr(prediction, "out_of_scope", False), getattr(prediction, "best", [])[1:]
        label = prediction.label or (OUT_OF_SCOPE if outside else "-")
        pairs = [(label, prediction.probability), *further]
        return "\t".join([*(f"{cell(name)}\t{share:.4f}" for name, share in pairs), cell(" ".join(prediction.text.split()))])
