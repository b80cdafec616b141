"""Texts as token ids, whatever the task makes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .split import Split

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import BatchEncoding, PreTrainedTokenizerBase

IGNORED = -100


@dataclass(frozen=True)
class Encoded:
    """Token ids of a split, longest first where they were to be sorted.

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

    @classmethod
    def of(cls, columns: dict[str, Any], split: Split, first_tokens: list[dict[int, int]] | None, cut: int) -> Encoded:
        """With the columns as a dataset."""
        from datasets import Dataset

        return cls(Dataset.from_dict(columns), split, first_tokens, cut)


def longest_first(split: Split, size: Callable[[Any], int]) -> Split:
    """The examples by falling size of their texts; equal ones keep their order."""
    return split.part(sorted(range(len(split)), key=lambda i: size(split.texts[i]), reverse=True))


def with_lengths(batch: BatchEncoding) -> dict[str, Any]:
    """The tokenizer's columns, and how many tokens each text has."""
    return {**batch, "length": [len(ids) for ids in batch["input_ids"]]}


def needs_space(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a word of a list gets other tokens than in the middle of a text, where a space stands before it."""
    words = tokenizer([["a", "a"]], is_split_into_words=True, add_special_tokens=False).encodings[0]
    second = [i for i, word in zip(words.ids, words.word_ids) if word == 1]
    first = tokenizer("a", add_special_tokens=False)["input_ids"]
    return tokenizer("a a", add_special_tokens=False)["input_ids"] != first + second


def first_tokens(word_ids: Sequence[int | None]) -> dict[int, int]:
    """Position of each word's first token, by word."""
    first: dict[int, int] = {}
    for position, word in enumerate(word_ids):
        if word is not None:
            first.setdefault(word, position)
    return first


def spread(numbers: Iterable[int], words: Iterable[int], count: int, label_names: Sequence[str]) -> list[str | None]:
    """A tag for each of `count` words; None for a word that has no token, because it was cut off."""
    tags: list[str | None] = [None] * count
    for word, number in zip(words, numbers, strict=True):
        tags[word] = label_names[number]
    return tags
