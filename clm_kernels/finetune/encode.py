"""From examples to token ids, from predicted ids back to labels and tags, and their scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from datasets import Dataset
from transformers import DataCollatorForTokenClassification, DataCollatorWithPadding, EvalPrediction, PreTrainedTokenizerBase

from ..errors import listed, require
from .data import Split
from .metrics import accuracy, are_spans, macro_f1, span_scores
from .templates import TEXT, fill

IGNORED = -100


@dataclass(frozen=True)
class Encoded:
    """Token ids of a split, longest first where `encode` was asked to sort.

    Attributes:
        dataset: columns ``input_ids``, ``attention_mask``, ``labels``, ``length`` (and others of the tokenizer's).
        split: the examples in the dataset's order.
        first_tokens: for each example, word -> position of its first token, which carries the label (token classification).
        cut: how many texts (sequence) or words (token) `max_length` cut off.
    """

    dataset: Dataset
    split: Split
    first_tokens: list[dict[int, int]] | None
    cut: int


def encode(
    split: Split, task: str, label_names: Sequence[str] | None, tokenizer: PreTrainedTokenizerBase, max_length: int, sort: bool,
    template: str = TEXT,
) -> Encoded:  # fmt: skip
    """Token ids of the texts in the template, cut off at `max_length`; with labels if there are `label_names`.

    Words to be tagged stand in no template: `load_data` refuses one.
    """
    is_token, shortened = task == "token", 0
    if sort:
        size = (lambda i: sum(map(len, split.texts[i]))) if is_token else (lambda i: len(split.texts[i]))
        split = split.part(sorted(range(len(split)), key=size, reverse=True))
    texts = split.texts
    if template != TEXT:
        texts, shortened = fill(template, texts, tokenizer, max_length)
    if is_token and _needs_space(tokenizer):
        texts = [[f" {word}" for word in words] for words in texts]
    batch = tokenizer(texts, is_split_into_words=is_token, truncation=True, max_length=max_length)
    columns = dict(batch)
    columns["length"] = [len(ids) for ids in batch["input_ids"]]
    firsts, cut = None, shortened + sum(bool(encoding.overflowing) for encoding in batch.encodings)
    if is_token:
        firsts = [_first_tokens(encoding.word_ids) for encoding in batch.encodings]
        cut = sum(len(text) - len(first) for text, first in zip(split.texts, firsts, strict=True))
    if label_names is not None:
        number = {name: i for i, name in enumerate(label_names)}
        if is_token:
            columns["labels"] = []
            for ids, tags, first in zip(batch["input_ids"], split.labels, firsts, strict=True):
                labels = [IGNORED] * len(ids)
                for word, position in first.items():
                    labels[position] = number[tags[word]]
                columns["labels"].append(labels)
        else:
            columns["labels"] = [number[label] for label in split.labels]
    return Encoded(Dataset.from_dict(columns), split, firsts, cut)


def _needs_space(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a word of a list gets other tokens than in the middle of a text, where a space stands before it."""
    words = tokenizer([["a", "a"]], is_split_into_words=True, add_special_tokens=False).encodings[0]
    second = [i for i, word in zip(words.ids, words.word_ids) if word == 1]
    first = tokenizer("a", add_special_tokens=False)["input_ids"]
    return tokenizer("a a", add_special_tokens=False)["input_ids"] != first + second


def _first_tokens(word_ids: Sequence[int | None]) -> dict[int, int]:
    """Position of each word's first token, by word."""
    first = {}
    for position, word in enumerate(word_ids):
        if word is not None:
            first.setdefault(word, position)
    return first


def collator(task: str, tokenizer: PreTrainedTokenizerBase) -> Callable:
    return DataCollatorForTokenClassification(tokenizer) if task == "token" else DataCollatorWithPadding(tokenizer)


def scorer(encoded: Encoded, task: str, label_names: Sequence[str]) -> Callable[[EvalPrediction], dict[str, float]]:
    """The Trainer's `compute_metrics` for this split; predictions are label numbers, in the split's order."""
    split, marks_spans = encoded.split, are_spans(label_names)

    def sequence(result: EvalPrediction) -> dict[str, float]:
        predicted = [label_names[i] for i in result.predictions]
        return {"accuracy": accuracy(split.labels, predicted), "macro_f1": macro_f1(split.labels, predicted)}

    def token(result: EvalPrediction) -> dict[str, float]:
        predicted = [
            spread(row[labels != IGNORED], first, len(tags), label_names)
            for row, labels, first, tags in zip(result.predictions, result.label_ids, encoded.first_tokens, split.labels)
        ]
        gold, flat = ([tag for tags in column for tag in tags] for column in (split.labels, predicted))
        scores = {"accuracy": accuracy(gold, flat)}
        if marks_spans:
            return scores | span_scores(split.labels, [[tag or "O" for tag in tags] for tags in predicted])
        return scores | {"macro_f1": macro_f1(gold, flat)}

    return token if task == "token" else sequence


def best_by(task: str, label_names: Sequence[str], asked: str = "auto") -> str:
    """The score that picks the best checkpoint: as asked, or span F1 where tags mark spans, and accuracy elsewhere.

    Raises:
        ValueError: for a score that this task has not.
    """
    tags_spans = task == "token" and are_spans(label_names)
    scores = ("f1", "accuracy") if tags_spans else ("accuracy", "macro_f1")
    require(asked in ("auto", *scores), "train", "best_by", f"auto or a score of this task: {listed(scores)}", repr(asked))
    return scores[0] if asked == "auto" else asked


def spread(numbers: Iterable[int], words: Iterable[int], count: int, label_names: Sequence[str]) -> list[str | None]:
    """A tag for each of `count` words; None for a word that has no token, because it was cut off."""
    tags: list[str | None] = [None] * count
    for word, number in zip(words, numbers, strict=True):
        tags[word] = label_names[number]
    return tags
