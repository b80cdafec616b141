"""Texts as token ids, whatever the task makes of them."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import refuse, require
from .columns import Column
from .split import Split
from .spooling import spooled
from .windows import CHUNK, Windows

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import BatchEncoding, PreTrainedTokenizerBase

IGNORED = -100
FIRSTS = "first_tokens"  # a column that no model sees: the position of each word's first token, -1 where it has none


@dataclass(frozen=True)
class Encoded:
    """Token ids of a split, longest first where they were to be sorted.

    Attributes:
        dataset: columns ``input_ids``, ``attention_mask``, ``labels``, ``length`` (and others of the tokenizer's), in a file.
        split: the examples in the dataset's order.
        first_tokens: for each example, word -> position of its first token, which carries the label (token classification).
        cuts: how many texts (sequence, 0 or 1) or words (token) `max_length` cut off, of each example.
        windows: where texts are read in windows, and one of them has several: the dataset has a row for each window.
    """

    dataset: Dataset | Any
    split: Split
    first_tokens: Sequence[dict[int, int]] | None
    cuts: Sequence[int]
    windows: Windows | None = None

    @property
    def cut(self) -> int:
        """How many in all."""
        return sum(self.cuts)

    @property
    def rows(self) -> Split:
        """What each row of the dataset was made of: a text, or a window of one."""
        return self.split if self.windows is None else self.windows.rows

    @property
    def labelled(self) -> Dataset | Any:
        """Rows of the dataset that hold each label once: of several windows with the same label the first."""
        whole = self.windows is None or self.windows.per_word
        return self.dataset if whole else self.dataset.select(self.windows.firsts)

    @property
    def weights(self) -> NDArray[np.float64] | None:
        """By which the loss of each row is multiplied so that each text counts alike: one on the mean; None where they are all one."""
        weights = None if self.windows is None else self.windows.weights
        return None if weights is None else weights / weights.mean()

    def part(self, texts: Sequence[int]) -> Encoded:
        """The texts of these numbers, in rising order, where each has its labels as a whole."""
        split, cuts = self.split.part(texts), [self.cuts[i] for i in texts]
        if self.windows is None:
            return Encoded(self.dataset.select(texts), split, None, cuts)
        rows, windows = self.windows.of(texts), self.windows
        part = replace(windows, rows=windows.rows.part(rows), counts=windows.counts[texts])
        return Encoded(self.dataset.select(rows), split, None, cuts, part)

    def pooled(self, rows: Iterable[NDArray]) -> Iterable[NDArray]:
        """What a model gives for each text, of what it gives for each row of the dataset."""
        return rows if self.windows is None else self.windows.pool(rows)

    @classmethod
    def of(cls, split: Split, encode: Callable[..., tuple[dict[str, Any], Iterable[int]]], *more: Sequence[Any]) -> Encoded:
        """A thousand examples at a time.

        Args:
            encode: makes columns of some texts, their labels and what else there is, and says of each how many it has cut off. A
                column `FIRSTS` becomes `first_tokens`.
            more: what else it takes of each text.
        """
        cuts = array("i")

        def chunks() -> Iterator[dict[str, Any]]:
            for begin in range(0, len(split), CHUNK):
                columns, cut = encode(*(column[begin : begin + CHUNK] for column in (split.texts, split.labels, *more)))
                cuts.extend(cut)
                yield columns

        dataset = spooled(chunks())
        if FIRSTS not in dataset.column_names:
            return cls(dataset, split, None, cuts)
        return cls(dataset.remove_columns(FIRSTS), split, FirstTokens(dataset.data.column(FIRSTS)), cuts)

    @classmethod
    def in_windows(cls, split: Split, windows: Windows, encode: Callable[..., tuple[dict[str, Any], Iterable[int]]]) -> Encoded:
        """The same with a row for each window; split, first tokens and cuts are those of the texts."""
        found = cls.of(windows.rows, encode, *windows.more)
        made, first, cuts = windows.by_text(split, found.first_tokens, found.cuts)
        return cls(found.dataset, split, first, cuts, made)


def check_cuts(function: str, encoded: Encoded, unit: str, limit: int, name: str = "the texts") -> None:
    """Raises ValueError where anything was cut off, for the long way ``"error"``."""
    if encoded.cut:
        where = min(encoded.split.where[i] for i in np.flatnonzero(encoded.cuts).tolist())
        place = f"{encoded.split.path} {where}" if encoded.split.path else f"text {where + 1}"
        refuse(function, name, f"of at most {limit} tokens, as long is 'error'", f"{encoded.cut:,} {unit} beyond, as in {place}")


class FirstTokens(Column):
    """Word -> position of its first token, of each text."""

    def __init__(self, stored: Any) -> None:
        self._stored = stored

    def __len__(self) -> int:
        return len(self._stored)

    def at(self, i: int) -> dict[int, int]:
        positions = self._stored[i].values.to_numpy().tolist()
        return {word: position for word, position in enumerate(positions) if position >= 0}


def longest_first(split: Split, size: Callable[[Any], int]) -> Split:
    """The examples by falling size of their texts; equal ones keep their order."""
    sizes = np.fromiter(map(size, split.texts), np.int64, len(split))
    return split.part(np.argsort(-sizes, kind="stable"))


def with_lengths(batch: BatchEncoding, most: int) -> dict[str, Any]:
    """The tokenizer's columns, and how many tokens each text has.

    Raises:
        ValueError: for a text of more tokens than it was to be cut off at, as where the special ones alone are more.
    """
    lengths = [len(ids) for ids in batch["input_ids"]]
    longest = max(lengths, default=0)
    require(longest <= most, "encode", "the tokenizer", f"one that cuts texts off at {most} tokens", f"{longest:,} of one text")
    return {**batch, "length": lengths}


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


def positions(first: Mapping[int, int]) -> list[int]:
    """What `first_tokens` found, as the column `FIRSTS` has it."""
    return [first.get(word, -1) for word in range(max(first, default=-1) + 1)]


def spread(numbers: Iterable[int], words: Iterable[int], count: int, label_names: Sequence[str]) -> list[str | None]:
    """A tag for each of `count` words; None for a word that has no token, because it was cut off."""
    tags: list[str | None] = [None] * count
    for word, number in zip(words, numbers, strict=True):
        tags[word] = label_names[number]
    return tags
