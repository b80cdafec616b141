"""`Task`: what every task can do, from the rows of a file to predictions that are written down."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ...errors import listed, require
from ..templates import TEXT

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import EvalPrediction, PreTrainedTokenizerBase

    from ..config import Data
    from ..encode import Encoded
    from ..judging.calibration import Calibration
    from ..split import Split
    from ..windows import Windows

Score = Callable[["EvalPrediction"], dict[str, float]]


class _Prediction(NamedTuple):
    text: Any
    label: Any
    probability: Any


class Prediction(_Prediction):
    """Sequence: a text, its label, the label's probability. Token: words, their tags, the tags' probabilities;
    tag and probability are None for a word that was cut off, and the label of a text where it is rejected. Multilabel: a text,
    its labels, the likeliest first, and their probabilities.

    Attributes:
        truncated: whether the text was cut off; no part of the tuple.
        shares: of a text that may have several labels, the probability of every label, in the classifier's order; likewise.
    """

    truncated: bool = False
    shares: Tensor | None = None


class Task(ABC):
    """One task.

    Attributes:
        name: as the command line has it.
        auto: name of the class of transformers that puts a head on a base model.
        architecture: how the names of its models' classes end.
        peft: PEFT's name for it.
        problem: transformers' ``problem_type``, or None.
        per_token: whether every word has a label, and not the text as a whole.
        several: whether a text may have any number of labels.
        unit: what is counted where something is cut off.
        fields: what `write` calls text, label and probability.
    """

    auto: str
    architecture: str
    peft: str
    problem: str | None = None
    per_token: bool = False
    several: bool = False
    unit: str = "texts"
    fields: tuple[str, str, str] = ("text", "label", "probability")

    def __init__(self, name: str):
        self.name = name

    @property
    def auto_class(self) -> Any:
        import transformers

        return getattr(transformers, self.auto)

    @abstractmethod
    def columns(self, data: Data) -> tuple[str, str]:
        """Columns of the text and of what is to be learnt of it."""

    def located(self, row: dict[str, Any], data: Data) -> tuple[dict[str, Any], tuple[str, str]]:
        """A row of a file as `read` takes it, and the columns that it has of `columns`."""
        return row, self.columns(data)

    def fits(self, row: dict[str, Any], data: Data) -> bool:
        """Whether a row is this task's, where nobody says which task it is."""
        return set(self.columns(data)) <= set(row)

    def suits(self, architecture: str, problem: Any) -> bool:
        """Whether a checkpoint is this task's, by its config's architecture and ``problem_type``."""
        return architecture.endswith(self.architecture) and (problem == "multi_label_classification") == self.several

    @abstractmethod
    def read(self, row: dict[str, Any], columns: tuple[str, str], place: str, labelled: bool) -> tuple[Any, Any]:
        """A checked text and its label of a row of a file; `place` tells where that stands.

        Raises:
            ValueError: for a value that cannot be right; names the place.
        """

    @abstractmethod
    def read_line(self, line: str) -> Any:
        """A text, of a line of plain text."""

    @abstractmethod
    def label(self, label: Any) -> list[str]:
        """Every label name in the label of one text."""

    def stratum(self, label: Any) -> str:
        """What `carve` draws equal parts of."""
        return ""

    def pairs(self, split: Split) -> Iterator[tuple[Any, Any]]:
        """Each text with its label, as `token_groups` takes them."""
        return zip(split.texts, split.labels, strict=True)

    def check(self, data: Data) -> None:
        """Raises ValueError for options that this task cannot have."""

    def written(
        self, texts: Sequence[Any], tokenizer: PreTrainedTokenizerBase, max_length: int, template: str = TEXT
    ) -> tuple[Sequence[Any], int]:  # fmt: skip
        """What the tokenizer is given of each text, and how many had to be shortened so that the template stays whole."""
        return texts, 0

    @abstractmethod
    def encode(
        self, split: Split, label_names: Sequence[str] | None, tokenizer: PreTrainedTokenizerBase, max_length: int, sort: bool,
        template: str = TEXT, long: str = "truncate",
    ) -> Encoded:  # fmt: skip
        """Token ids of the texts, cut off at `max_length`, or in windows of as many; with labels if there are `label_names`."""

    @abstractmethod
    def windows(self, split: Split, tokenizer: PreTrainedTokenizerBase, max_length: int, template: str = TEXT) -> Windows:
        """The windows in which texts of more than `max_length` tokens are read."""

    def prepare_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Sets up a tokenizer that was just loaded."""

    @abstractmethod
    def collate(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], Any]:
        """What makes a padded batch of encoded texts."""

    @abstractmethod
    def scores(self, label_names: Sequence[str]) -> tuple[str, ...]:
        """Names of its scores; the first one picks the best checkpoint if nobody asks for another."""

    def predicted(self, logits: Tensor) -> Tensor:
        """What `score` takes of a batch's logits: here the numbers of the best labels."""
        return logits.argmax(-1)

    @abstractmethod
    def score(self, encoded: Encoded, label_names: Sequence[str]) -> Score:
        """The Trainer's `compute_metrics` for this split; predictions are what `predicted` gives, in the split's order."""

    def score_calibrated(self, encoded: Encoded, label_names: Sequence[str], calibration: Calibration | None) -> Score:
        """The same of data that the calibration was not fitted on, where predictions depend on it."""
        return self.score(encoded, label_names)

    @abstractmethod
    def decode(self, encoded: Encoded, i: int, numbers: Tensor, probabilities: Tensor, label_names: Sequence[str]) -> Prediction:
        """What is predicted of text i of a split, by the numbers of the best labels and their probabilities."""

    @abstractmethod
    def write(self, prediction: Prediction) -> str:
        """A prediction as lines of text."""

    def best_by(self, label_names: Sequence[str], asked: str = "auto") -> str:
        """The score that picks the best checkpoint.

        Raises:
            ValueError: for a score that this task has not.
        """
        scores = self.scores(label_names)
        require(asked in ("auto", *scores), "train", "best_by", f"auto or a score of this task: {listed(scores)}", repr(asked))
        return scores[0] if asked == "auto" else asked

    def names(self, labels: Iterable[Any]) -> set[str]:
        """Every label name in the labels of some texts."""
        return {name for label in labels for name in self.label(label)}


def read_text(value: Any, place: str) -> str:
    """A text that is not empty."""
    require(isinstance(value, str) and bool(value.strip()), "read_split", place, "a text that is not empty", repr(value))
    return value


def read_label(value: Any, place: str) -> str:
    """A text or a whole number, as a text."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    text = str(value) if whole or isinstance(value, str) else ""
    require(bool(text.strip()), "read_split", place, "a text or a whole number", repr(value))
    return text
