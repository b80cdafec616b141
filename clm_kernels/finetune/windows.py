"""`--long`: what becomes of texts that are longer than the limit: cut off, refused, or read in windows.

A text has the mean of its windows' logits; of words with tags each has those of one window (`word_windows`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import require
from .columns import Texts
from .split import Split
from .templates import TEXT

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

T = TypeVar("T")
CONFIG_KEY = "clm_long"
CHUNK = 1000  # texts that are tokenised at a time
OVERLAP = 4  # of a window's tokens, one in so many stands in the window before it too


def check_long(function: str, long: str) -> None:
    """Raises ValueError for another way than the three."""
    ways = "'truncate', 'window' or 'error'"
    require(long in ("truncate", "window", "error"), function, "long", ways, repr(long))


def long_of(config: PreTrainedConfig) -> str:
    """How a model that was trained here reads long texts, as its config records it: ``"window"`` or ``"truncate"``."""
    return "window" if getattr(config, CONFIG_KEY, None) == "window" else "truncate"


def keep_long(config: Any, long: Any) -> None:
    """Records it in a model's config, in place of the base's own."""
    if long == "window":
        setattr(config, CONFIG_KEY, long)
    elif hasattr(config, CONFIG_KEY):
        delattr(config, CONFIG_KEY)


@dataclass(frozen=True)
class Windows:
    """The windows of some texts, those of a text one after another; a text that fits is its own only window.

    Attributes:
        rows: what each window holds of its text, with the text's label and place.
        counts: how many windows each text has, ``(texts,)``.
    """

    rows: Split
    counts: NDArray[np.int64]
    per_word: ClassVar[bool] = False  # whether windows divide the labels of a text among them

    @property
    def more(self) -> tuple[Sequence[Any], ...]:
        """What else is to be known of each window where it is encoded."""
        return ()

    @property
    def long(self) -> int:
        """How many texts have more than one."""
        return int((self.counts > 1).sum())

    @property
    def of_long(self) -> int:
        """How many windows these have."""
        return int(self.counts[self.counts > 1].sum())

    def told(self) -> dict[str, int]:
        """Both, as `Report.windows` has them."""
        return {"texts": self.long, "windows": self.of_long}

    @property
    def owners(self) -> NDArray[np.int64]:
        """Which text each window is of, ``(windows,)``."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    @property
    def firsts(self) -> NDArray[np.int64]:
        """Each text's first window, ``(texts,)``."""
        return np.cumsum(self.counts) - self.counts

    @property
    def weights(self) -> NDArray[np.float64] | None:
        """By which each window counts, so that those of a text count one together, ``(windows,)``; None where labels do that."""
        return 1 / self.counts[self.owners]

    def of(self, texts: Sequence[int]) -> NDArray[np.int64]:
        """The windows of these texts, which stand in rising order."""
        return np.flatnonzero(np.isin(self.owners, texts))

    def one_each(self, seed: int) -> NDArray[np.int64]:
        """One window of each text, drawn by the seed."""
        return self.firsts + np.random.default_rng(seed).integers(self.counts)

    def pool(self, rows: Iterable[NDArray]) -> Iterator[NDArray]:
        """Of each text the mean over its windows, of which there is a row each."""
        for own in self.grouped(rows):
            yield np.mean(own, 0, np.float64).astype(np.float32)

    def grouped(self, rows: Iterable[T]) -> Iterator[list[T]]:
        """What there is one of for each window, by text."""
        left = iter(rows)
        for count in self.counts.tolist():
            yield list(islice(left, count))

    def by_text(
        self, split: Split, first_tokens: Sequence[dict[int, int]] | None, cuts: Sequence[int]
    ) -> tuple[Windows, Sequence[dict[int, int]] | None, Sequence[int]]:  # fmt: skip
        """These windows, and what `Encoded` has of the texts in place of what it has of their windows."""
        lasts = self.firsts + self.counts - 1  # what the end of another window lacks, the next one has
        return self, None, np.asarray(cuts)[lasts].tolist()


def windows_of(split: Split, tokenizer: PreTrainedTokenizerBase, limit: int, template: str = TEXT) -> Windows:
    """Parts of the texts that fit, in the template too.

    Raises:
        ValueError: if the template leaves no room.
    """
    room = limit - len(tokenizer(template.replace(TEXT, ""))["input_ids"])
    require(room > 0, "encode", "max_length", "more tokens than the template takes", limit)
    parts, counts = Texts(), list[int]()
    for begin in range(0, len(split), CHUNK):
        some = split.texts[begin : begin + CHUNK]
        read = tokenizer([template.replace(TEXT, text) for text in some], return_attention_mask=False, verbose=False)["input_ids"]
        for text, ids in zip(some, read, strict=True):
            own = [text] if len(ids) <= limit else _parts(text, tokenizer, room)
            counts.append(len(own))
            for part in own:
                parts.append(part)
    numbers = np.array(counts, np.int64)
    owners = np.repeat(np.arange(len(numbers)), numbers)
    return Windows(replace(split.part(owners), texts=parts), numbers)


def _parts(text: str, tokenizer: PreTrainedTokenizerBase, room: int) -> list[str]:
    offsets = tokenizer([text], add_special_tokens=False, verbose=False).encodings[0].offsets
    last = max(0, len(offsets) - room)
    begins = [*range(0, last, max(1, room - room // OVERLAP)), _fitting(text, offsets, last, tokenizer, room)]
    return [text[offsets[begin][0] : offsets[min(begin + room, len(offsets)) - 1][1]] for begin in begins]


def _fitting(text: str, offsets: Sequence[tuple[int, int]], begin: int, tokenizer: PreTrainedTokenizerBase, room: int) -> int:
    """From where on the end of a text fits: alone it may be of more tokens, if it begins within a word."""
    while len(tokenizer(text[offsets[begin][0] :], add_special_tokens=False, verbose=False)["input_ids"]) > room:
        begin += 1
    return begin
