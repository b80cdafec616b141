"""Which words carried a label: by what its probability loses without each of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def left_out(text: str) -> tuple[list[str], list[str]]:
    """The words of a text, and the text as it is and without each of them in turn. One word alone stays."""
    words = text.split()
    if len(words) < 2:
        return words, [text]
    return words, [text, *(" ".join(words[:i] + words[i + 1 :]) for i in range(len(words)))]


def weights(words: Sequence[str], found: Sequence[Any]) -> list[dict[str, Any]]:
    """Each word and what the label of the whole text loses without it; found: `Ranked` with every label, as `left_out` orders texts."""
    label = found[0].best[0][0]
    whole, *without = (dict(one.best)[label] for one in found)
    return [{"word": word, "weight": whole - part} for word, part in zip(words, without or [whole])]
