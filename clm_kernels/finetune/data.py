"""From files to checked examples: texts or words, their labels, and which part of them validates."""

from __future__ import annotations

import hashlib
import random
from array import array
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import listed, require
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
    train = read_split(data.train, task, data)
    names = _label_names(train, task)
    record = {"task": task.name, "train": _describe(train), "labels": len(names)}
    others = {}
    for part, path in (("validation", data.validation), ("test", data.test)):
        if path:
            others[part] = read_split(path, task, data)
            _check_known(others[part], task, names, data.train)
            record[part] = _describe(others[part])
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
    """The task as the config says, or by the columns of the first training row."""
    if data.task != "auto":
        return TASKS[data.task]
    _, row = next(iter(read_rows(data.train)))
    columns = {name: task.columns(data) for name, task in TASKS.items()}
    found = [name for name, wanted in columns.items() if set(wanted) <= set(row)]
    several = f"{' or '.join(TASKS)}, for the data has columns for {'both' if len(TASKS) == 2 else 'several'}"
    require(len(found) <= 1, "load_data", "task", several, "auto")
    wanted = " or ".join(f"{a!r} and {b!r}" for a, b in columns.values())
    require(bool(found), "load_data", data.train, f"a table with columns {wanted}", listed(row))
    return TASKS[found[0]]


def read_split(path: str, task: Task, data: Data, labelled: bool = True) -> Split:
    """Examples of one file, checked one by one; without `labelled`, the labels are not asked for."""
    return Split.of(str(path), read_examples(path, task, data, labelled))


def read_examples(path: str, task: Task, data: Data, labelled: bool = True) -> Iterator[tuple[str, Any, Any]]:
    """What `read_split` reads, one by one: place, text, label."""
    columns = task.columns(data)
    for where, row in read_rows(path):
        for name in columns if labelled else columns[:1]:
            require(name in row, "read_split", f"{path}, {where}", f"a row with a column {name!r}", listed(row))
        yield where, *task.read(row, columns, f"{path}, {where}: ", labelled)


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


def _label_names(train: Split, task: Task) -> list[str]:
    seen = task.names(train.labels)
    require(len(seen) > 1, "load_data", train.path, "data with two labels or more", f"only {listed(seen)}")
    numbers = all(name.isdecimal() for name in seen)
    return sorted(seen, key=int) if numbers else sorted(seen)


def _check_known(split: Split, task: Task, names: Sequence[str], train_path: str) -> None:
    known = set(names)
    for labels, where in zip(split.labels, split.where, strict=True):
        for label in task.label(labels):
            require(label in known, "load_data", f"{split.path}, {where}", f"labelled as in {train_path}", repr(label))


def _describe(split: Split) -> dict[str, Any]:
    with open(split.path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"path": split.path, "rows": len(split), "sha256": digest}
