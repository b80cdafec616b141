"""Finds a text of an encoded split by its ids and labels, with sixteen bytes a text in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from datasets import Dataset

CHUNK = 1000  # rows that are read at a time


class Rows:
    """The rows of a dataset by ``input_ids`` and ``labels``."""

    def __init__(self, dataset: Dataset):
        self._dataset = dataset.select_columns(["input_ids", "labels"])
        hashes = np.fromiter(map(hash, self._keys()), np.int64, len(dataset))
        self._order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._order]

    def find(self, ids: Sequence[int], labels: Any) -> int | None:
        """The last row that has them; None if there is no such row."""
        key = _key(ids, labels)
        begin, end = (np.searchsorted(self._hashes, hash(key), side) for side in ("left", "right"))
        return next((row for row in map(int, reversed(self._order[begin:end])) if self._key(row) == key), None)

    def _key(self, row: int) -> tuple:
        found = self._dataset[row]
        return _key(found["input_ids"], found["labels"])

    def _keys(self) -> Iterator[tuple]:
        for columns in self._dataset.iter(CHUNK):
            yield from map(_key, columns["input_ids"], columns["labels"])


def _key(ids: Sequence[int], labels: Any) -> tuple:
    return tuple(ids), tuple(labels) if isinstance(labels, list) else labels
