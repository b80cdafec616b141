"""Columns of examples that read like lists and take little more than what they hold: a million short texts are some 70 MB."""

from __future__ import annotations

from abc import abstractmethod
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np


class Column(Sequence[Any]):
    """Values that are made when they are read. A slice is a list, and so is what it equals."""

    @abstractmethod
    def at(self, i: int) -> Any:
        """Value i, which is in range."""

    def __getitem__(self, i: Any) -> Any:
        where = range(len(self))[i]
        return self.at(where) if isinstance(where, int) else [self.at(k) for k in where]

    def __iter__(self) -> Iterator[Any]:
        return map(self.at, range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(a == b for a, b in zip(self, other))

    __hash__ = None  # type: ignore[assignment]


class Texts(Column):
    """Texts, end to end."""

    def __init__(self) -> None:
        self._bytes, self._ends = bytearray(), array("q", [0])

    def append(self, text: str) -> None:
        self._bytes += text.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def at(self, i: int) -> str:
        return self._bytes[self._ends[i] : self._ends[i + 1]].decode("utf-8", "surrogatepass")


class Names(Column):
    """Names of which there are few: each stands once."""

    def __init__(self) -> None:
        self._numbers = array("i")
        self._names: list[Any] = []
        self._number: dict[Any, int] = {}

    def append(self, name: Any) -> None:
        if (number := self._number.get(name)) is None:
            number = self._number[name] = len(self._names)
            self._names.append(name)
        self._numbers.append(number)

    def __len__(self) -> int:
        return len(self._numbers)

    def at(self, i: int) -> Any:
        return self._names[self._numbers[i]]


class Lists(Column):
    """Lists of what another column holds."""

    def __init__(self, items: Texts | Names) -> None:
        self._items, self._ends = items, array("q", [0])

    def append(self, values: Iterable[Any]) -> None:
        for value in values:
            self._items.append(value)
        self._ends.append(len(self._items))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def at(self, i: int) -> list[Any]:
        return self._items[self._ends[i] : self._ends[i + 1]]


class Places(Column):
    """Places in one file: ``"line 3"``."""

    def __init__(self) -> None:
        self._unit, self._numbers = "", array("q")

    def append(self, place: str) -> None:
        self._unit, _, number = place.rpartition(" ")
        self._numbers.append(int(number))

    def __len__(self) -> int:
        return len(self._numbers)

    def at(self, i: int) -> str:
        return f"{self._unit} {self._numbers[i]}"


class Picked(Column):
    """Some values of another column, in an order of their own."""

    def __init__(self, column: Sequence[Any], chosen: np.ndarray) -> None:
        self._column, self._chosen = column, chosen

    def __len__(self) -> int:
        return len(self._chosen)

    def at(self, i: int) -> Any:
        return self._column[int(self._chosen[i])]


def column_for(value: Any, few: bool = False) -> Any:
    """An empty column for values like this one.

    Args:
        few: whether they repeat, as labels do.
    """
    if isinstance(value, list):
        return Lists(Names() if few else Texts())
    return Names() if few else Texts() if isinstance(value, str) else []
