"""`Split`: checked examples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import refuse
from .columns import Picked, Places, column_for


@dataclass(frozen=True)
class Split:
    """Checked examples of one file.

    Attributes:
        texts: a text each, or a list of words each (token classification).
        labels: a label each, or a tag for every word. Whole numbers have become strings.
        where: place of each example in the file, for messages.
    """

    path: str
    texts: Sequence[Any]
    labels: Sequence[Any]
    where: Sequence[Any]

    @classmethod
    def of(cls, path: str, examples: Iterable[tuple[str, Any, Any]]) -> Split:
        """Examples as they come, each with its place, in compact columns.

        Raises:
            ValueError: if there is none.
        """
        columns = None
        for where, text, label in examples:
            columns = columns or (column_for(text), column_for(label, few=True), Places())
            for column, value in zip(columns, (text, label, where)):
                column.append(value)
        if columns is None:
            refuse("read_split", repr(path), "a file with a row that can be read", "none")
        return cls(path, *columns)

    def __len__(self) -> int:
        return len(self.texts)

    def part(self, chosen: Sequence[int] | np.ndarray) -> Split:
        """The examples of these numbers."""
        numbers = np.asarray(chosen, dtype=np.int64)
        return Split(self.path, *(Picked(column, numbers) for column in (self.texts, self.labels, self.where)))
