"""`Split`: checked examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Split:
    """Checked examples of one file.

    Attributes:
        texts: a text each, or a list of words each (token classification).
        labels: a label each, or a tag for every word. Whole numbers have become strings.
        where: place of each example in the file, for messages.
    """

    path: str
    texts: list[Any]
    labels: list[Any]
    where: list[Any]

    def __len__(self) -> int:
        return len(self.texts)

    def part(self, chosen: Sequence[int]) -> Split:
        """The examples of these numbers."""
        return Split(self.path, *([column[i] for i in chosen] for column in (self.texts, self.labels, self.where)))
