"""Windows of words that have a tag each: every word is judged in the window in which it stands farther from an end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .columns import Lists, Names, Texts
from .split import Split
from .windows import CHUNK, OVERLAP, Windows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class WordWindows(Windows):
    """As `Windows`; the others of a window's words are there to be read, and have no label.

    Attributes:
        owned: from which of its words on, and up to which, each window's count.
        first_tokens: of each window, where it has been encoded, the position of the first token of each word that counts.
    """

    owned: Sequence[tuple[int, int]] = ()
    first_tokens: Sequence[dict[int, int]] = ()
    per_word: ClassVar[bool] = True

    @property
    def weights(self) -> None:
        """None: each word has one loss, whatever windows it stands in."""
        return None

    def pool(self, rows: Iterable[NDArray]) -> Iterator[NDArray]:
        """Of each text a row for each word that has a token, of the windows' rows, which have one for each token."""
        kept = (row[list(first.values())] for row, first in zip(rows, self.first_tokens, strict=True))
        yield from map(np.concatenate, self.grouped(kept))

    @property
    def more(self) -> tuple[Sequence[Any], ...]:
        return (self.owned,)

    def by_text(
        self, split: Split, first_tokens: Sequence[dict[int, int]] | None, cuts: Sequence[int]
    ) -> tuple[Windows, Sequence[dict[int, int]], Sequence[int]]:  # fmt: skip
        """With first tokens that tell each word's place among the rows that `pool` gives."""
        assert first_tokens is not None
        places = []
        for own, firsts in zip(self.grouped(self.owned), self.grouped(first_tokens), strict=True):
            words = np.cumsum([0, *(end - begin for begin, end in own)])  # before each window's
            told = [first - begin + n for (begin, _), n, named in zip(own, words, firsts) for first in named]
            places.append({word: place for place, word in enumerate(told)})
        lacking = [len(text) - len(first) for text, first in zip(split.texts, places, strict=True)]
        return replace(self, first_tokens=first_tokens), places, lacking


def word_windows_of(
    split: Split, written: Callable[[Sequence[list[str]]], Sequence[list[str]]], tokenizer: PreTrainedTokenizerBase, limit: int
) -> WordWindows:  # fmt: skip
    """Runs of the texts' words that fit.

    Args:
        written: makes of some texts' words what the tokenizer is given of them.
    """
    room = limit - tokenizer.num_special_tokens_to_add()
    texts, labels, counts, owned = Lists(Texts()), Lists(Names()), list[int](), list[tuple[int, int]]()
    labelled = len(split) > 0 and split.labels[0] is not None
    for begin in range(0, len(split), CHUNK):
        some, tags = (column[begin : begin + CHUNK] for column in (split.texts, split.labels))
        read = tokenizer(written(some), is_split_into_words=True, add_special_tokens=False, verbose=False).encodings
        for words, own_tags, encoding in zip(some, tags, read, strict=True):
            spans = spans_of(_sizes(encoding.word_ids, len(words), room), room)
            counts.append(len(spans))
            owned += _owned(spans)
            for first, last in spans:
                texts.append(words[first:last])
                if labelled:
                    labels.append(own_tags[first:last])
    numbers = np.array(counts, np.int64)
    rows = split.part(np.repeat(np.arange(len(numbers)), numbers))
    return WordWindows(replace(rows, texts=texts, labels=labels if labelled else rows.labels), numbers, owned)


def _sizes(word_ids: Sequence[int | None], words: int, room: int) -> NDArray[np.int64]:
    """How many tokens each word has, or what there is room for if that is less."""
    return np.minimum(np.bincount([word for word in word_ids if word is not None], minlength=words), room)


def spans_of(sizes: NDArray[np.int64], room: int) -> list[tuple[int, int]]:
    """First and last (exclusive) word of each window: as many words as fit; of its tokens a quarter, at most, stand in the one before.

    The last one begins as early as it can.

    Args:
        sizes: tokens of each word, none more than `room`.
    """
    ends = np.cumsum([0, *sizes])  # tokens before each word
    spans, begin = [], 0
    while True:
        end = int(np.searchsorted(ends, ends[begin] + room, "right")) - 1
        if end == len(sizes):
            return [*spans, (int(np.searchsorted(ends, ends[-1] - room)), end)]
        spans.append((begin, end))
        shared = ends[end] - min(room // OVERLAP, room - int(sizes[end]))  # the next word fits beside them
        begin = max(begin + 1, int(np.searchsorted(ends, shared)))


def _owned(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Of each window's words, counted from its first one, those that are no nearer to its end than to that of another window."""
    borders = [(begin + end + 1) // 2 for (_, end), (begin, _) in pairwise(spans)]
    inside = zip([0, *borders], [*borders, spans[-1][1]], spans, strict=True)
    return [(first - begin, last - begin) for first, last, (begin, _) in inside]
