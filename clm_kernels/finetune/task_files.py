"""``--train NAME=FILE``: which files belong to which of several tasks, and ``--set NAME.key=value``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import listed, refuse, require
from ..strangers import brief
from .keys import KEYS, parse_settings

Tasks = dict[str, dict[str, Any]]
FILES = ("train", "validation", "test")  # the options that say so


def by_task(files: Mapping[str, Sequence[str]]) -> tuple[dict[str, str], Tasks]:
    """The files of one run, or those of each of several tasks.

    A value that names something on the disk as a whole is that; otherwise what stands before its first ``=`` is a task's name.

    Args:
        files: by the option, as ``train``, in the order in which they were given.

    Raises:
        ValueError: for files with and without a name, a name twice, or one without training data.
    """
    split = {option: [_split(value) for value in values] for option, values in files.items()}
    names = {name for pairs in split.values() for name, _ in pairs}
    if not names - {""}:
        return {option: _only(option, pairs) for option, pairs in split.items()}, {}
    tasks: Tasks = {name: {} for name, _ in split.get("train", ())}
    for option, pairs in split.items():
        for name, file in pairs:
            every = "NAME=FILE in all of --train, --validation and --test, where it is in one"
            require(bool(name), "train", option, every, repr(file))
            require(name in tasks, "train", option, f"of a task that has --train ({listed(tasks) or 'none'})", repr(name))
            require(option not in tasks[name], "train", option, "given once for each task", f"{name!r} twice")
            tasks[name][option] = file
    return {}, tasks


def by_key(settings: Iterable[str], tasks: Tasks) -> tuple[list[str], Tasks]:
    """The settings of all tasks, and the tasks with those of their own, ``NAME.training.epochs=3``, parsed."""
    common, own = [], {name: [] for name in tasks}
    for setting in settings:
        key = setting.partition("=")[0]
        known = [] if key in KEYS else [name for name in tasks if key.startswith(f"{name}.")]
        name = max(known, key=len, default=None)
        (common if name is None else own[name]).append(setting if name is None else setting.removeprefix(f"{name}."))
    unnamed = [setting for setting in common if tasks and setting.partition("=")[0] in {f"data.{file}" for file in FILES}]
    require(not unnamed, "train", "set", "NAME.data.… for a file of one of several tasks", listed(unnamed))
    return common, {name: files | parse_settings(own[name]) for name, files in tasks.items()}


def _split(value: str) -> tuple[str, str]:
    name, equals, file = value.partition("=")
    if not equals or os.path.exists(value):
        return "", value
    if not name or not file:
        refuse("train", "a file of a task", "NAME=FILE", brief(value))
    return name, file


def _only(option: str, pairs: Sequence[tuple[str, str]]) -> str:
    several = listed(file for _, file in pairs)
    require(len(pairs) == 1, "train", option, "one file, or NAME=FILE for each of several tasks", several)
    return pairs[0][1]
