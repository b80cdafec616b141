"""Labelled texts as ids in a temporary file, to be read more than once without being held or tokenised again."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import IO, NamedTuple

import numpy as np

BATCH = 1000  # texts that are tokenised at a time


class Tokenised(NamedTuple):
    """One text.

    Attributes:
        word_ids: the word of each id; below 0 for none.
        labels: the text's, alone; or one for each word.
    """

    ids: list[int]
    word_ids: list[int]
    labels: list[str]


class TokenisedTexts:
    """Texts that have something in them; the file has no name, and goes with the process however that ends.

    Args:
        examples: (text, label) or (words, tags).

    Attributes:
        empty: texts in which the tokenizer found nothing.
        tokens: of all texts.
        words: whether each word has a label.
    """

    def __init__(self, examples: Iterable[tuple[str | Sequence[str], str | Sequence[str]]], tokenizer):
        self.empty = self.tokens = self._batches = 0
        self.words = False
        self._names: dict[str, int] = {}
        self._file: IO[bytes] = tempfile.TemporaryFile(prefix="clm-tokens-")  # noqa: SIM115 (it is closed with the object)
        rest = iter(examples)
        while batch := list(islice(rest, BATCH)):
            self._write(batch, tokenizer)

    def _write(self, batch: list, tokenizer) -> None:
        texts, labels = zip(*batch)
        self.words = not isinstance(labels[0], str)
        encodings = tokenizer(list(texts), add_special_tokens=False, is_split_into_words=self.words).encodings
        rows = [
            (encoding.ids, [-1 if word is None else word for word in encoding.word_ids], self._numbers(label))
            for encoding, label in zip(encodings, labels, strict=True)
            if encoding.ids
        ]
        self.empty += len(batch) - len(rows)
        self.tokens += sum(len(ids) for ids, _, _ in rows)
        self._batches += 1
        for column in zip(*rows) if rows else ([], [], []):
            np.save(self._file, np.array([len(values) for values in column], dtype=np.int32))
            np.save(self._file, np.array([value for values in column for value in values], dtype=np.int32))

    def _numbers(self, label: str | Sequence[str]) -> list[int]:
        names = [label] if isinstance(label, str) else label
        return [self._names.setdefault(name, len(self._names)) for name in names]

    def __iter__(self) -> Iterator[Tokenised]:
        names = list(self._names)
        self._file.seek(0)
        for _ in range(self._batches):
            for ids, words, labels in zip(*(self._column() for _ in range(3)), strict=True):
                yield Tokenised(ids, words, [names[i] for i in labels])

    def _column(self) -> list[list[int]]:
        sizes = np.load(self._file, allow_pickle=False)
        values, ends = np.load(self._file, allow_pickle=False).tolist(), np.cumsum(sizes).tolist()
        return [values[begin:end] for begin, end in zip([0, *ends], ends)]
