"""What merging saves, and whether a tokenizer stays the same on disk."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

from ..errors import require
from ..models.folders import read_tokenizer

BATCH = 1000  # texts that are tokenised at a time


def ids_of(tokenizer, texts: Sequence[str]) -> Iterator[list[int]]:
    """Ids of each text, uncut and without special tokens."""
    for begin in range(0, len(texts), BATCH):
        yield from tokenizer(list(texts[begin : begin + BATCH]), add_special_tokens=False, verbose=False)["input_ids"]


def tokens_per_text(tokenizer, texts: Sequence[str]) -> float:
    """Mean number of tokens of a text, uncut and without special tokens."""
    require(len(texts) > 0, "tokens_per_text", "texts", "at least one text", "none")
    return sum(map(len, ids_of(tokenizer, texts))) / len(texts)


def check_reload(tokenizer, texts: Sequence[str]) -> None:
    """Saves the tokenizer, reads it again, and compares what both make of the texts.

    Raises:
        ValueError: for the first text of which the saved tokenizer makes something else.
    """
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        again: Any = read_tokenizer(folder)
    for text, ids, found in zip(texts, ids_of(tokenizer, texts), ids_of(again, texts), strict=True):
        if ids != found:
            raise ValueError(f"check_reload: the saved tokenizer must make {ids} of {text!r} as before it was saved, got {found}")
