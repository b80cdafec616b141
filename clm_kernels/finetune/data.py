"""From files to checked examples: texts or words, their labels, and which part of them validates."""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import listed, require
from .config import TrainConfig
from .files import read_rows
from .templates import TEXT

TASKS = ("sequence", "token")


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
    where: list[str]

    def __len__(self) -> int:
        return len(self.texts)

    def part(self, chosen: Sequence[int]) -> Split:
        return Split(self.path, *([column[i] for i in chosen] for column in (self.texts, self.labels, self.where)))


@dataclass(frozen=True)
class Data:
    """Everything one run learns from and is measured on; `label_names` come from train alone."""

    task: str
    label_names: list[str]
    train: Split
    validation: Split
    test: Split | None
    record: dict[str, Any] = field(default_factory=dict)


def load_data(config: TrainConfig) -> Data:
    """Reads and checks the files of a run.

    Raises:
        ValueError: for a missing, empty or unreadable file, a missing column, a wrong value, words and tags of
            different number, a single label, or a label that train does not have (names the file and the line); for
            a template around words.
    """
    task = find_task(config)
    without = f"{TEXT!r} for token classification, whose words stand alone"
    require(task == "sequence" or config.template == TEXT, "load_data", "template", without, repr(config.template))
    train = read_split(config.train, task, config)
    names = _label_names(train, task)
    record = {"task": task, "train": _describe(train), "labels": len(names)}
    others = {}
    for part in ("validation", "test"):
        if path := getattr(config, part):
            others[part] = read_split(path, task, config)
            _check_known(others[part], names, config.train)
            record[part] = _describe(others[part])
    if not config.validation:
        train, others["validation"] = carve(train, task, config.validation_fraction, config.seed)
        record["validation"] = {
            "carved_from": config.train,
            "fraction": config.validation_fraction,
            "seed": config.seed,
            "rows": len(others["validation"]),
        }
        record["train"]["rows"] = len(train)
    return Data(task, names, train, others["validation"], others.get("test"), record)


def find_task(config: TrainConfig) -> str:
    """``"sequence"`` or ``"token"``: as the config says, or by the columns of the first training row."""
    if config.task != "auto":
        return config.task
    _, row = next(iter(read_rows(config.train)))
    sequence, token = [config.text_column, config.label_column], [config.tokens_column, config.tags_column]
    found = [set(columns) <= set(row) for columns in (sequence, token)]
    require(not all(found), "load_data", "task", "sequence or token, for the data has columns for both", "auto")
    wanted = " or ".join(f"{a!r} and {b!r}" for a, b in (sequence, token))
    require(any(found), "load_data", config.train, f"a table with columns {wanted}", listed(row))
    return TASKS[found.index(True)]


def read_split(path: str, task: str, config: TrainConfig, labelled: bool = True) -> Split:
    """Examples of one file, checked one by one; without `labelled`, the labels are not asked for."""
    names = (config.text_column, config.label_column) if task == "sequence" else (config.tokens_column, config.tags_column)
    names = names if labelled else names[:1]
    split = Split(str(path), [], [], [])
    for where, row in read_rows(path):
        for name in names:
            require(name in row, "read_split", f"{path}, {where}", f"a row with a column {name!r}", listed(row))
        place = f"{path}, {where}: "
        if task == "sequence":
            split.texts.append(_text(row[names[0]], place + names[0]))
            split.labels.append(_label(row[names[1]], place + names[1]) if labelled else None)
        else:
            words, tags = [_text(word, place + names[0]) for word in _words(row[names[0]], place + names[0])], None
            if labelled:
                tags = [_label(tag, place + names[1]) for tag in _words(row[names[1]], place + names[1])]
                expected = f"{len(words)} tags, one for each word"
                require(len(tags) == len(words), "read_split", place + names[1], expected, len(tags))
            split.texts.append(words)
            split.labels.append(tags)
        split.where.append(where)
    return split


def carve(train: Split, task: str, fraction: float, seed: int) -> tuple[Split, Split]:
    """Splits `train` into train and validation, the same way for the same seed.

    Each label gives `fraction` of its examples, rounded; at least one, and never its last (token classification: one
    draw over all examples).
    """
    groups = defaultdict(list)
    for i, label in enumerate(train.labels):
        groups[label if task == "sequence" else ""].append(i)
    draw, held_out = random.Random(seed), set()
    for _, members in sorted(groups.items()):
        draw.shuffle(members)
        held_out.update(members[: min(max(1, round(fraction * len(members))), len(members) - 1)])
    require(bool(held_out), "carve", train.path, "two examples of a label or more, so that a part can validate", "one of each")
    parts = ([i for i in range(len(train)) if (i in held_out) == held] for held in (False, True))
    return tuple(map(train.part, parts))


def _label_names(train: Split, task: str) -> list[str]:
    seen = set(train.labels) if task == "sequence" else {tag for tags in train.labels for tag in tags}
    require(len(seen) > 1, "load_data", train.path, "data with two labels or more", f"only {listed(seen)}")
    numbers = all(name.isdecimal() for name in seen)
    return sorted(seen, key=int) if numbers else sorted(seen)


def _check_known(split: Split, names: Sequence[str], train_path: str) -> None:
    known = set(names)
    for labels, where in zip(split.labels, split.where, strict=True):
        for label in [labels] if isinstance(labels, str) else labels:
            require(label in known, "load_data", f"{split.path}, {where}", f"labelled as in {train_path}", repr(label))


def _describe(split: Split) -> dict[str, Any]:
    return {"path": split.path, "rows": len(split), "sha256": hashlib.sha256(Path(split.path).read_bytes()).hexdigest()}


def _text(value: Any, place: str) -> str:
    require(isinstance(value, str) and bool(value.strip()), "read_split", place, "a text that is not empty", repr(value))
    return value


def _label(value: Any, place: str) -> str:
    whole = isinstance(value, int) and not isinstance(value, bool)
    text = str(value) if whole or isinstance(value, str) else ""
    require(bool(text.strip()), "read_split", place, "a text or a whole number", repr(value))
    return text


def _words(value: Any, place: str) -> list[Any]:
    value = value.split() if isinstance(value, str) else value
    require(isinstance(value, list) and len(value) > 0, "read_split", place, "a list with something in it", repr(value))
    return value
