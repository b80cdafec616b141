"""Which word each token of an encoded text belongs to, and of which label that word is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from ...token_groups.groups import OUTSIDE
from ..encode import Encoded
from ..tasks import Task
from .rows import Rows


class Word(NamedTuple):
    """A word where it stands.

    Attributes:
        text: as it is written; the name of a special token.
        key: the same as the model can tell it from others: in lower case, if the tokenizer makes it so.
        label: its text's label, or its own tag without ``B-`` and ``I-``; that of words in no span for special tokens.
        tokens: positions of its tokens.
    """

    text: str
    key: str
    label: str
    tokens: list[int]


class Reader:
    """Finds the words of texts of one encoded split, by their ids."""

    def __init__(self, task: Task, tokenizer: PreTrainedTokenizerBase, encoded: Encoded, max_length: int, template: str):
        self._task, self._tokenizer, self._encoded = task, tokenizer, encoded
        self._max_length, self._template = max_length, template

    @property
    def special(self) -> list[str]:
        """Names of the special tokens, which stand among the words."""
        return list(self._tokenizer.all_special_tokens)

    def find(self, ids: Sequence[int], labels: Any) -> list[Word]:
        """The words of the text with these ids and labels; none if there is no such text."""
        row = self._rows.find(ids, labels)
        return [] if row is None else self.row(row)

    def row(self, number: int) -> list[Word]:
        """The words of a row of the dataset: of a text, or of a window of one."""
        text, label = self._encoded.rows.texts[number], self._encoded.rows.labels[number]
        (written,), _ = self._task.written([text], self._tokenizer, self._max_length, self._template)
        words = self._task.per_token
        encoding = self._tokenizer(
            [written], is_split_into_words=words, truncation=True, max_length=self._max_length
        ).encodings[0]  # fmt: skip
        found = []
        for number, tokens in _runs(encoding.word_ids):
            if number is None:
                found += [Word(encoding.tokens[i], encoding.tokens[i], OUTSIDE if words else label, [i]) for i in tokens]
            elif words:
                found.append(Word(text[number], self._key(text[number]), class_of(label[number]), tokens))
            else:
                parts = _between_spaces(encoding, tokens, written)
                found += [Word(name, self._key(name), label, part) for name, part in parts]
        return found

    def _key(self, word: str) -> str:
        return word.lower() if self._lowers else word

    @cached_property
    def _rows(self) -> Rows:
        return Rows(self._encoded.dataset)

    @cached_property
    def _lowers(self) -> bool:
        normalizer = self._tokenizer.backend_tokenizer.normalizer
        return normalizer is not None and "A" not in normalizer.normalize_str("A")


def class_of(tag: str) -> str:
    """A tag without ``B-`` and ``I-``."""
    return tag.removeprefix("B-").removeprefix("I-")


def _between_spaces(encoding, tokens: list[int], text: str) -> Iterator[tuple[str, list[int]]]:
    """What the tokenizer takes for one word; of a whole text, as some do, the words."""
    begins = [i for i in tokens[1:] if _after_space(text, encoding.offsets[i - 1], encoding.offsets[i])]
    for begin, end in zip([tokens[0], *begins], [*begins, tokens[-1] + 1], strict=True):
        written = text[encoding.offsets[begin][0] : encoding.offsets[end - 1][1]].strip()
        yield written or encoding.tokens[begin], list(range(begin, end))


def _after_space(text: str, former: tuple[int, int], own: tuple[int, int]) -> bool:
    return text[own[0] : own[0] + 1].isspace() or text[former[1] : own[0]].isspace()


def _runs(word_ids: Sequence[int | None]) -> Iterator[tuple[int | None, list[int]]]:
    """Runs of tokens of the same word."""
    run: list[int] = []
    for i, number in enumerate(word_ids):
        if run and number != word_ids[run[0]]:
            yield word_ids[run[0]], run
            run = []
        run.append(i)
    if run:
        yield word_ids[run[0]], run
