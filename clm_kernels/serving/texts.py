"""What a trunk is asked for: texts, and the tasks of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..errors import listed, require
from ..strangers import brief
from .member import Member


def tasks_of(count: int, tasks: str | Sequence[str] | None, members: Mapping[str, Member]) -> dict[str, list[int]]:
    """The numbers of the texts that each task is asked for, by its name.

    Args:
        count: of the texts.
        tasks: one name for all texts, a name for each, or None for every task and every text.

    Raises:
        ValueError: for a name that is not known, or as many names as there are texts not.
    """
    if tasks is None:
        require(bool(members), "Trunk.classify", "tasks", "there: `add` one first", "none")
        return {name: list(range(count)) for name in members}
    named = [tasks] * count if isinstance(tasks, str) else tasks
    require(isinstance(named, (list, tuple)), "Trunk.classify", "tasks", "a name, a list of names, or None", brief(tasks))
    for name in (tasks,) if isinstance(tasks, str) else named:
        known = isinstance(name, str) and name in members
        require(known, "Trunk.classify", "tasks", f"of {listed(members) or 'none, as there is none'}", brief(name))
    require(len(named) == count, "Trunk.classify", "tasks", f"a name for each of {count} texts", f"{len(named)} names")
    asked: dict[str, list[int]] = {}
    for i, name in enumerate(named):
        asked.setdefault(name, []).append(i)
    return asked
