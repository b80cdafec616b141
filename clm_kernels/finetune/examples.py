"""Rows of a file as checked texts and labels, one by one; those that cannot be read are told of, where somebody asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import listed, require
from .files import read_rows
from .tasks import Task

if TYPE_CHECKING:
    from .config import Data


class BadRow(NamedTuple):
    """A row that cannot be read.

    Attributes:
        where: its place in the file, e.g. ``line 3``.
        kind: what is wrong: the ``line`` itself, a missing ``column``, the ``text`` or the ``label``.
        reason: the message that says so.
        remedy: what mends it, where that is known.
    """

    where: str
    kind: str
    reason: str
    remedy: str = ""


def read_examples(
    path: str, task: Task, data: Data, labelled: bool = True, bad: Callable[[BadRow], None] | None = None
) -> Iterator[tuple[str, Any, Any]]:
    """Place, text and label of each row.

    Args:
        labelled: whether labels are asked for; without, they are None.
        bad: takes each row that cannot be read, which is then left out; without it the first one's error is raised.

    Raises:
        ValueError: for what cannot be read and nobody takes; names the file and the place.
    """

    def line(where: str, error: ValueError) -> None:
        if bad is None:
            raise error
        bad(BadRow(where, "line", str(error), getattr(error, "remedy", "")))

    for where, row in read_rows(path, line, data.delimiter):
        row, columns = task.located(row, data)
        wanted = columns if labelled else columns[:1]
        try:
            for name in wanted:
                require(
                    name in row,
                    "read_split",
                    f"{path}, {where}",
                    f"a row with a column {name!r}{_named(name, data)}",
                    listed(row),
                )
            text, label = task.read(row, columns, f"{path}, {where}: ", labelled)
        except ValueError as error:
            if bad is None:
                raise
            bad(BadRow(where, _kind(row, task, columns, wanted), str(error)))
        else:
            yield where, text, label


def _named(column: str, data: Data) -> str:
    """Which option names another column."""
    option = next((name for name, value in vars(data).items() if name.endswith("_column") and value == column), "")
    return f" (--{option.replace('_', '-')} names another)" if option else ""


def _kind(row: dict[str, Any], task: Task, columns: tuple[str, str], wanted: tuple[str, ...]) -> str:
    if not set(wanted) <= set(row):
        return "column"
    try:
        task.read(row, columns, "", labelled=False)
    except ValueError:
        return "text"
    return "label"
