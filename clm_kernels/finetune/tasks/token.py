"""Token classification: a tag for every word of a text that comes as words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...errors import require
from ...escaping import cell
from ..encode import FIRSTS, IGNORED, Encoded, first_tokens, longest_first, needs_space, positions, spread, with_lengths
from ..metrics import accuracy, are_spans, macro_f1, span_scores
from ..templates import TEXT
from ..windows import Windows
from ..word_windows import word_windows_of
from .base import Prediction, Task, read_label, read_text

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from ..config import Data
    from ..split import Split
    from .base import Score


class TokenClassification(Task):
    auto = "AutoModelForTokenClassification"
    architecture = "ForTokenClassification"
    peft = "TOKEN_CLS"
    per_token = True
    unit = "words"
    fields = ("tokens", "tags", "probabilities")

    def columns(self, data: Data) -> tuple[str, str]:
        return data.tokens_column, data.tags_column

    def check(self, data: Data) -> None:
        super().check(data)
        without = f"{TEXT!r} for token classification, whose words stand alone"
        require(data.template == TEXT, "load_data", "template", without, repr(data.template))
        expected = "0 for token classification, whose words are tokenised one by one: nothing merges across words"
        require(data.merge_tokens == 0, "train", "merge_tokens", expected, data.merge_tokens)

    def read(self, row: dict[str, Any], columns: tuple[str, str], place: str, labelled: bool) -> tuple[Any, Any]:
        tokens, tags = (place + column for column in columns)
        words = [read_text(word, tokens) for word in _list(row[columns[0]], tokens)]
        if not labelled:
            return words, None
        named = [read_label(tag, tags) for tag in _list(row[columns[1]], tags)]
        require(len(named) == len(words), "read_split", tags, f"{len(words)} tags, one for each word", len(named))
        return words, named

    def read_line(self, line: str) -> Any:
        return line.split()

    def label(self, label: Any) -> list[str]:
        return label

    def prepare_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Byte-level tokenizers know a word by the space before it. Where they can add it to the words of a list by
        themselves, they are set to; for the others `encode` puts it there."""
        from tokenizers import pre_tokenizers

        splitter = tokenizer.backend_tokenizer.pre_tokenizer
        if isinstance(splitter, pre_tokenizers.ByteLevel):
            splitter.add_prefix_space = tokenizer.add_prefix_space = tokenizer.init_kwargs["add_prefix_space"] = True
            tokenizer.backend_tokenizer.pre_tokenizer = splitter

    def written(
        self, texts: Sequence[list[str]], tokenizer: PreTrainedTokenizerBase, max_length: int, template: str = TEXT
    ) -> tuple[Sequence[list[str]], int]:  # fmt: skip
        return ([[f" {word}" for word in words] for words in texts] if needs_space(tokenizer) else texts), 0

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
            split = longest_first(split, lambda words: sum(map(len, words)))
        number = {name: i for i, name in enumerate(label_names or ())}

        def some(
            texts: list[list[str]], labels: list[list[str]], owned: list[tuple[int, int]] | None = None
        ) -> tuple[dict[str, Any], list[int]]:  # fmt: skip
            written, _ = self.written(texts, tokenizer, max_length, template)
            batch = tokenizer(written, is_split_into_words=True, truncation=True, max_length=max_length)
            firsts = [first_tokens(encoding.word_ids) for encoding in batch.encodings]
            if owned is not None:
                firsts = [{word: first[word] for word in range(*own) if word in first} for first, own in zip(firsts, owned)]
            columns = {**with_lengths(batch, max_length), FIRSTS: list(map(positions, firsts))}
            if label_names is not None:
                columns["labels"] = [
                    _at_first_tokens(tags, first, len(ids), number)
                    for ids, tags, first in zip(batch["input_ids"], labels, firsts, strict=True)
                ]
            return columns, [len(text) - len(first) for text, first in zip(texts, firsts, strict=True)]

        windows = self.windows(split, tokenizer, max_length, template) if long == "window" else None
        return Encoded.in_windows(split, windows, some) if windows is not None and windows.long else Encoded.of(split, some)

    def windows(self, split: Split, tokenizer: PreTrainedTokenizerBase, max_length: int, template: str = TEXT) -> Windows:
        return word_windows_of(split, lambda texts: self.written(texts, tokenizer, max_length)[0], tokenizer, max_length)

    def collate(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], Any]:
        from transformers import DataCollatorForTokenClassification

        return DataCollatorForTokenClassification(tokenizer)

    def scores(self, label_names: Sequence[str]) -> tuple[str, ...]:
        return ("f1", "accuracy") if are_spans(label_names) else ("accuracy", "macro_f1")

    def score(self, encoded: Encoded, label_names: Sequence[str]) -> Score:
        split, marks_spans = encoded.split, are_spans(label_names)

        def compute(result):
            predicted = [
                spread(row[labels != IGNORED], first, len(tags), label_names)
                for row, labels, first, tags in zip(result.predictions, result.label_ids, encoded.first_tokens, split.labels)
            ]
            gold, flat = ([tag for tags in column for tag in tags] for column in (split.labels, predicted))
            scores = {"accuracy": accuracy(gold, flat)}
            if marks_spans:
                return scores | span_scores(split.labels, [[tag or "O" for tag in tags] for tags in predicted])
            return scores | {"macro_f1": macro_f1(gold, flat)}

        return compute

    def decode(self, encoded: Encoded, i: int, numbers: Tensor, probabilities: Tensor, label_names: Sequence[str]) -> Prediction:
        words, first = encoded.split.texts[i], encoded.first_tokens[i]
        tags = spread(numbers[list(first.values())].tolist(), first, len(words), label_names)
        return Prediction(
            words, tags, [float(probabilities[first[word]]) if word in first else None for word in range(len(words))]
        )

    def write(self, prediction: Prediction) -> str:
        rows = zip(*prediction, strict=True)
        return "".join(
            f"{cell(word)}\t-\t-\n" if tag is None else f"{cell(word)}\t{cell(tag)}\t{probability:.4f}\n"
            for word, tag, probability in rows
        )


def _at_first_tokens(tags: Sequence[str], first: Mapping[int, int], length: int, number: Mapping[str, int]) -> list[int]:
    labels = [IGNORED] * length
    for word, position in first.items():
        labels[position] = number[tags[word]]
    return labels


def _list(value, place):
    value = value.split() if isinstance(value, str) else value
    require(isinstance(value, list) and len(value) > 0, "read_split", place, "a list with something in it", repr(value))
    return value
