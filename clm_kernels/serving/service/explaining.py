"""Which words carried a label: by what its probability loses without each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def left_out(text: str) -> tuple[list[str], list[str]]:
    """The words of a text, and the text as it is and without each of them in turn. One word alone stays."""
    words = text.split()
    if len(words) < 2:
        return words, [text]
    return words, [text, *(" ".join(words[:i] + words[i + 1 :]) for i in range(len(words)))]


def weights(words: Sequence[str], label: str, shares: Sequence[Mapping[str, float]]) -> list[dict[str, Any]]:
    """Each word and what a label loses without it; `shares`: every label's probability, as `left_out` orders texts."""
    whole, *without = (one[label] for one in shares)
    return [{"word": word, "weight": whole - part} for word, part in zip(words, without or [whole])]
