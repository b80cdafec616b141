"""From files to checked examples: texts or words, their labels, and which part of them validates."""

from __future__ import annotations

import hashlib
import random
from array import array
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import listed, require
from .examples import BadRow, read_examples
from .files import read_rows
from .split import Split
from .tasks import TASKS, Task

if TYPE_CHECKING:
    from .config import Data


@dataclass(frozen=True)
class Corpus:
    """Everything one run learns from and is measured on; `label_names` come from train alone."""

    task: Task
    label_names: list[str]
    train: Split
    validation: Split
    test: Split | None
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def splits(self) -> dict[str, Split]:
        """By name: ``train``, ``validation`` and, if there is test data, ``test``."""
        found = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: split for name, split in found.items() if split is not None}


def load_data(data: Data, seed: int) -> Corpus:
    """Reads and checks the files of a run.

    Args:
        seed: of the draw of what validates, where no file does.

    Raises:
        ValueError: for a missing, empty or unreadable file, a missing column, a wrong value, words and tags of
            different number, a single label, or a label that train does not have (names the file and the line); for
            a template around words.
    """
    task = find_task(data)
    task.check(data)
    train, described = _read_part(data.train, task, data)
    names = _label_names(train, task)
    record = {"task": task.name, "train": described, "labels": len(names)}
    others = {}
    for part, path in (("validation", data.validation), ("test", data.test)):
        if path:
            others[part], record[part] = _read_part(path, task, data)
            check_known("load_data", others[part], task, names, f"as in {data.train}")
    if not data.validation:
        train, others["validation"] = carve(train, task, data.validation_fraction, seed)
        record["validation"] = {
            "carved_from": data.train,
            "fraction": data.validation_fraction,
            "seed": seed,
            "rows": len(others["validation"]),
        }
        record["train"]["rows"] = len(train)
    return Corpus(task, names, train, others["validation"], others.get("test"), record)


def find_task(data: Data) -> Task:
    """The task as the config says, or by the columns of the first training row (that has some task's, where bad rows are skipped)."""
    if data.task != "auto":
        return TASKS[data.task]
    row = _telling_row(data)
    found = [name for name, task in TASKS.items() if task.fits(row, data)]
    several = f"{' or '.join(found)}, for the data has columns for {'both' if len(found) == 2 else 'several'}"
    require(len(found) <= 1, "load_data", "task", several, "auto")
    wanted = " or ".join(f"{a!r} and {b!r}" for a, b in (task.columns(data) for task in TASKS.values()))
    named = "(--text-column, --label-column, --labels-column, --tokens-column and --tags-column name others)"
    require(bool(found), "load_data", data.train, f"a table with columns {wanted} {named}", listed(row))
    return TASKS[found[0]]


def read_split(
    path: str, task: Task, data: Data, labelled: bool = True, left_out: Callable[[BadRow], None] | None = None
) -> Split:
    """Examples of one file, checked one by one; without `labelled`, the labels are not asked for.

    Args:
        left_out: is told of the rows that `data.skip_bad_rows` leaves out.

    Raises:
        ValueError: for a row that cannot be read, unless `data.skip_bad_rows`.
    """
    take = (left_out or _forget) if data.skip_bad_rows else None
    return Split.of(str(path), read_examples(path, task, data, labelled, take))


def carve(train: Split, task: Task, fraction: float, seed: int) -> tuple[Split, Split]:
    """Splits `train` into train and validation, the same way for the same seed.

    Each label gives `fraction` of its examples, rounded; at least one, and never its last (token classification: one
    draw over all examples).
    """
    groups: dict[str, array[int]] = defaultdict(lambda: array("q"))
    for i, label in enumerate(train.labels):
        groups[task.stratum(label)].append(i)
    draw, held_out = random.Random(seed), np.zeros(len(train), dtype=bool)
    for _, members in sorted(groups.items()):
        draw.shuffle(members)
        held_out[members[: min(max(1, round(fraction * len(members))), len(members) - 1)]] = True
    two = "two examples of a label or more, so that a part can validate"
    require(bool(held_out.any()), "carve", train.path, two, "one of each")
    return train.part(np.flatnonzero(~held_out)), train.part(np.flatnonzero(held_out))


def _telling_row(data: Data) -> dict[str, Any]:
    wrong: list[ValueError] = []
    take = (
        (lambda _, error: wrong.append(error))
        if data.skip_bad_rows
        else lambda where, error: _refused(BadRow(where, "line", str(error)))
    )
    rows = read_rows(data.train, take, data.delimiter)
    _, first = next(rows, ("", {}))
    if not first and wrong:
        raise wrong[0]
    if not data.skip_bad_rows or _tells(first, data):
        return first
    return next((row for _, row in rows if _tells(row, data)), first)


def _tells(row: dict[str, Any], data: Data) -> bool:
    return any(task.fits(row, data) for task in TASKS.values())


def _read_part(path: str, task: Task, data: Data) -> tuple[Split, dict[str, Any]]:
    """The examples of a file, and what is recorded of it."""
    left_out: list[BadRow] = []
    take = left_out.append if data.skip_bad_rows else _refused
    split = Split.of(str(path), read_examples(path, task, data, bad=take))
    record = _describe(split)
    if data.skip_bad_rows:
        record["left_out"] = {"rows": len(left_out), "first": [row.where for row in left_out[:3]]}
    return split, record


def _refused(row: BadRow) -> None:
    raise ValueError(f"{row.reason} (`clm-kernels check` lists all such rows, `train --skip-bad-rows` leaves them out)")


def _forget(row: BadRow) -> None:
    """In place of whoever counts bad rows."""


def _label_names(train: Split, task: Task) -> list[str]:
    seen = task.names(train.labels)
    require(len(seen) > 1, "load_data", train.path, "data with two labels or more", f"only {listed(seen)}")
    numbers = all(name.isdecimal() for name in seen)
    return sorted(seen, key=int) if numbers else sorted(seen)


def check_known(function: str, split: Split, task: Task, names: Sequence[str], expected: str) -> None:
    """Raises ValueError for the first label that is none of `names`."""
    known = set(names)
    for labels, where in zip(split.labels, split.where, strict=True):
        for label in task.label(labels):
            require(label in known, function, f"{split.path}, {where}", f"labelled {expected}", repr(label))


def _describe(split: Split) -> dict[str, Any]:
    with open(split.path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"path": split.path, "rows": len(split), "sha256": digest}
