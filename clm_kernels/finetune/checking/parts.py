"""What is kept of the rows that were read: hashes, numbers and places in arrays, and no text."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..examples import BadRow
from .finding import PLACES, Place
from .lengths import Lengths
from .normal import is_missing, loosened


@dataclass
class Bad:
    """Rows of one kind that could not be read."""

    count: int = 0
    first: list[BadRow] = field(default_factory=list)


@dataclass
class Part:
    """One of ``train``, ``validation`` and ``test``.

    Texts are compared by 64-bit hashes: among a million different ones two agree with a chance of three in 10^8.

    Attributes:
        exact, loose: hash of each text as it is, and without case, space and punctuation.
        answers: hash of each row's labels, in their order.
        labels: label numbers of all rows, one after the other; row i's end at `ends[i]`.
        numbers: each row's number in the file; `unit` is what it counts, ``line`` or ``row``.
        missing, broken: rows whose text says "nan" or the like, or is not valid Unicode.
        bad: by kind, what could not be read.
        lengths: what the tokenizer says, if there is one.
    """

    name: str
    path: str
    unit: str = "line"
    exact: array = field(default_factory=lambda: array("q"))
    loose: array = field(default_factory=lambda: array("q"))
    answers: array = field(default_factory=lambda: array("q"))
    labels: array = field(default_factory=lambda: array("i"))
    ends: array = field(default_factory=lambda: array("q"))
    numbers: array = field(default_factory=lambda: array("q"))
    missing: array = field(default_factory=lambda: array("q"))
    broken: array = field(default_factory=lambda: array("q"))
    bad: dict[str, Bad] = field(default_factory=dict)
    lengths: Lengths | None = None

    def __len__(self) -> int:
        return len(self.exact)

    @property
    def left_out(self) -> int:
        """How many rows could not be read."""
        return sum(bad.count for bad in self.bad.values())

    def take(self, where: str, text: Any, labels: Iterable[int]) -> None:
        """Adds a row."""
        row = len(self.exact)
        plain = text if isinstance(text, str) else " ".join(text)
        self.exact.append(hash(text if text is plain else "\0".join(text)))
        self.loose.append(hash(loosened(plain)))
        if is_missing(plain):
            self.missing.append(row)
        if not plain.isascii() and not _encodes(plain):
            self.broken.append(row)
        elif self.lengths is not None:
            self.lengths.take(row, text)
        labels = tuple(labels)
        self.answers.append(hash(labels))
        self.labels.extend(labels)
        self.ends.append(len(self.labels))
        self.unit, _, number = where.partition(" ")
        self.numbers.append(int(number))

    def leave_out(self, row: BadRow) -> None:
        """Counts a row that cannot be read."""
        bad = self.bad.setdefault(row.kind, Bad())
        bad.count += 1
        if len(bad.first) < PLACES:
            bad.first.append(row)

    def places(self, rows: Iterable[int]) -> list[Place]:
        """Where the first few of these rows stand."""
        return [Place(self.path, f"{self.unit} {self.numbers[row]}") for row, _ in zip(rows, range(PLACES))]

    def rows_of(self, labels: Iterable[int]) -> Iterator[int]:
        """The first rows that have one of these labels, in order."""
        found = np.flatnonzero(np.isin(as_numbers(self.labels), list(labels)))[: 100 * PLACES]
        yield from dict.fromkeys(np.searchsorted(as_numbers(self.ends), found, side="right").tolist())

    def counts(self, labels: int) -> np.ndarray:
        """How often each of so many labels stands there."""
        return np.bincount(as_numbers(self.labels), minlength=labels)


@dataclass(frozen=True)
class Seen:
    """All parts, and what they share.

    Attributes:
        names: label -> its number, in the order of appearance.
        per_token: whether every word has a label.
        unit: what labels are counted in, ``texts`` or ``words``.
        rare: how often a label must be in train not to be called rare.
    """

    parts: list[Part]
    names: dict[str, int]
    per_token: bool
    unit: str
    rare: int

    @property
    def labels(self) -> list[str]:
        """The labels by number."""
        return list(self.names)


def as_numbers(column: array) -> np.ndarray:
    """The column as it is, without a copy; nothing may be added to it while that is in use."""
    return np.frombuffer(column, dtype=column.typecode) if column else np.empty(0, column.typecode)


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
