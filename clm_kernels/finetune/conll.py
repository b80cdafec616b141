"""Sentences of tagged words, one word a line: the token in the first column, its tag in the last."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from ..errors import require

DOCUMENT, COMMENT = "-DOCSTART-", "#"
Sentence = tuple[str, list[str], list[str]]  # where it begins, its tokens and their tags, none where there is one column


def read_sentences(
    lines: Iterable[str], head: Iterable[str], name: str, bad: Callable[[str, ValueError], None]
) -> Iterator[Sentence]:  # fmt: skip
    """The sentences, which empty lines end.

    Columns are divided by tabs where the first line of columns has one, and may then hold spaces; else by spaces. Lines that begin
    with ``-DOCSTART-`` end a sentence and say nothing. Before a sentence, lines that begin with ``#`` are comments if they have not
    as many columns as the others, or are of the form ``# name = value``.

    Args:
        lines: the file's.
        head: the same, of which those are read that tell how many columns there are.
        name: of the file, in errors.
        bad: takes the error of a sentence that cannot be read, which is then left out.
    """
    split, count = _columns(head)
    begin: str = ""
    rows: list[list[str]] = []
    wrong: ValueError | None = None
    for number, line in enumerate(lines, start=1):
        columns = split(line)
        if not line.strip() or columns[0] == DOCUMENT:
            yield from _sentence(begin, rows, wrong, bad)
            begin, rows, wrong = "", [], None
        elif not rows and not wrong and line.startswith(COMMENT) and (len(columns) != count or columns[2:3] == ["="]):
            continue
        else:
            begin = begin or f"line {number}"
            rows.append(columns)
            wrong = wrong or _wrong(columns, count, f"{name}, line {number}")
    yield from _sentence(begin, rows, wrong, bad)


def _columns(lines: Iterable[str]) -> tuple[Callable[[str], list[str]], int]:
    """How a line is split, and into how many columns, by the first one that is neither empty nor a comment."""
    told = (line for line in lines if line.strip() and not line.startswith((COMMENT, DOCUMENT)))
    first = next(told, "")
    split = _by_tabs if "\t" in first else str.split
    return split, len(split(first))


def _by_tabs(line: str) -> list[str]:
    return [column.strip() for column in line.split("\t")]


def _wrong(columns: list[str], count: int, place: str) -> ValueError | None:
    try:
        require(len(columns) == count, "read_rows", place, f"{count} columns as the first line has", len(columns))
    except ValueError as error:
        return error
    return None


def _sentence(
    begin: str, rows: list[list[str]], wrong: ValueError | None, bad: Callable[[str, ValueError], None]
) -> Iterator[Sentence]:  # fmt: skip
    if wrong is not None:
        bad(begin, wrong)
    elif rows:
        yield begin, [columns[0] for columns in rows], [columns[-1] for columns in rows if len(columns) > 1]
