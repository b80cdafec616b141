"""Where examples are no multiple of what all processes take at a time: none is read twice, and each counts as in one process.

One process that accumulates as many batches as there are processes takes what is left in fewer batches, the last one short. So
do several here; a process for which nothing is left gives no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..teaching import ROW, without_row

if TYPE_CHECKING:
    from datasets import Dataset

FILLER = -1  # the number of the row that stands where nothing is left
IDLE = "idle"  # what marks the batch that is made of it
Collate = Callable[[list[dict[str, Any]]], Any]


@dataclass(frozen=True)
class Rounds:
    """How an epoch's examples are dealt: `batch` of them to each of the `processes`, `accumulation` times a step."""

    examples: int
    batch: int
    processes: int
    accumulation: int

    @property
    def filled(self) -> int:
        """Places that all processes take in an epoch."""
        whole = self.batch * self.processes
        return math.ceil(self.examples / whole) * whole

    def weight(self, step: int) -> float:
        """By what a process's loss is multiplied so that the mean over processes and batches is the mean over real batches.

        Args:
            step: of the run, from 0 on.
        """
        size = self.batch * self.processes * self.accumulation
        left = self.examples % size
        if not left or (step + 1) % math.ceil(self.examples / size):
            return 1.0
        return math.ceil(left / (self.batch * self.processes)) * self.processes / math.ceil(left / self.batch)


def with_filler(rows: Dataset) -> Dataset:
    """The same with their numbers in a column, and a short one more at the end, whose number is `FILLER`."""
    from datasets import concatenate_datasets

    lengths = rows["length"]
    shortest = min(range(len(rows)), key=list(lengths).__getitem__)
    more = concatenate_datasets([rows, rows.select([shortest])])
    return more.add_column(ROW, [*range(len(rows)), FILLER])


def without_fillers(collate: Collate, weighing: Collate | None) -> Collate:
    """What is made of the real examples of a batch; where there are none, of a filler, marked.

    Args:
        collate: makes a batch of examples without their numbers.
        weighing: the same of examples with them, where that is wanted.
    """

    def real(examples: list[dict[str, Any]]) -> Any:
        if ROW not in examples[0]:
            return collate(examples)
        kept = [example for example in examples if example[ROW] != FILLER]
        if kept and weighing is not None:
            return weighing(kept)
        batch = collate([without_row(example) for example in kept or examples[:1]])
        return batch if kept else {**batch, IDLE: True}

    return real


def real_rows(remainder: int, rank: int, size: int) -> int:
    """How many of a process's places in the last round of batches of this size are not filled up with the first texts again."""
    return min(max(remainder - rank * size, 0), size) if remainder > 0 else size
