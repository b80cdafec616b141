"""Reads .jsonl, .csv, .tsv, .parquet and .conll row by row; every message names the file and the line."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import listed, require
from .conll import read_sentences

SUFFIXES = (".jsonl", ".csv", ".tsv", ".parquet", ".conll")
DELIMITERS = ",;\t|"
HEAD = 1 << 16  # bytes that tell the delimiter
UTF16 = (b"\xff\xfe", b"\xfe\xff")  # how a file begins that Excel calls "Unicode text"
Row = tuple[str, dict[str, Any]]  # where it stands, e.g. "line 3", and what it holds
Bad = Callable[[str, ValueError], None]  # is told where a row stands that cannot be read, and why


class NotUtf8(ValueError):
    """Of a line that is none of UTF-8 text.

    Attributes:
        remedy: what makes it one.
    """

    def __init__(self, message: str, remedy: str):
        super().__init__(f"{message}; {remedy}")
        self.remedy = remedy


def read_rows(path: str | Path, bad: Bad | None = None, delimiter: str = "") -> Iterator[Row]:
    """Rows of a table on disk.

    Args:
        delimiter: between the fields of a .csv or .tsv; found by the file's head if it is not given.
        bad: takes the error of each row that cannot be read, which is then left out; without it the first one is raised.

    Raises:
        ValueError: if the file is missing, empty, not UTF-8, of an unknown kind, or broken; names the line.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    require(suffix in SUFFIXES, "read_rows", "the file's name", f"one that ends in {listed(SUFFIXES)}", repr(str(path)))
    require(path.is_file(), "read_rows", repr(str(path)), "an existing file", "a folder" if path.is_dir() else "nothing")
    empty = True

    def left_out(where: str, error: ValueError) -> None:
        nonlocal empty
        empty = False
        (bad or _raised)(where, error)

    separated = partial(_csv, delimiter=delimiter)
    for row in {".jsonl": _jsonl, ".parquet": _parquet, ".conll": _conll}.get(suffix, separated)(path, left_out):
        empty = False
        yield row
    require(not empty, "read_rows", repr(str(path)), "a file with at least one row", "none")


def read_lines(source: Iterable[bytes], name: str, bad: Bad | None = None) -> Iterator[str]:
    """Lines of UTF-8 text without their ends; a byte order mark at the start is dropped.

    Args:
        bad: takes the error of each line that is not UTF-8, which then is an empty one; without it the first one is raised.

    Raises:
        ValueError: if a line is not UTF-8.
    """
    bad = bad or _raised
    encoding = "WINDOWS-1252"  # what a file mostly is that is neither
    for number, line in enumerate(source, start=1):
        if number == 1 and (line.startswith(UTF16) or b"\0" in line):
            encoding = "UTF-16"
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            found = f"{error.reason} at byte {error.start}"
            remedy = f'if it is text, convert it (`iconv -f {encoding} -t UTF-8 FILE > NEW`) or save it as "CSV UTF-8"'
            bad(f"line {number}", NotUtf8(f"read_lines: {name}, line {number} must be UTF-8, got {found}", remedy))
            text = ""
        yield text.removesuffix("\n").removesuffix("\r")


def _raised(where: str, error: ValueError) -> None:
    raise error from None


def _lines(path: Path, bad: Bad) -> Iterator[str]:
    with open(path, "rb") as file:
        yield from read_lines(file, str(path), bad)


def _jsonl(path: Path, bad: Bad) -> Iterator[Row]:
    for number, line in enumerate(_lines(path, bad), start=1):
        if not line.strip():
            continue
        where, row = f"line {number}", None
        try:
            row = json.loads(line)
            require(isinstance(row, dict), "read_rows", f"{path}, {where}", "one JSON object", type(row).__name__)
        except (json.JSONDecodeError, RecursionError) as error:
            bad(where, ValueError(f"read_rows: {path}, {where} must be one JSON object, got {error}"))
        except ValueError as error:
            bad(where, error)
        else:
            yield where, row


def find_delimiter(path: Path) -> str:
    """What stands between the fields of a table: a comma, or in a .tsv a tab, unless the header has none of that and another."""
    usual = "\t" if path.suffix.lower() == ".tsv" else ","
    with open(path, "rb") as file:
        head = file.read(HEAD).decode("utf-8-sig", "replace")
    header = head.partition("\n")[0]
    there = [delimiter for delimiter in DELIMITERS if delimiter in header]
    if usual in there or not there:
        return usual
    try:
        return csv.Sniffer().sniff(head, "".join(there)).delimiter
    except csv.Error:
        return max(there, key=header.count)


def _csv(path: Path, bad: Bad, delimiter: str) -> Iterator[Row]:
    found = delimiter or find_delimiter(path)
    lines = _lines(path, _all_but_a_header(bad))
    reader = csv.reader((line + "\n" for line in lines), delimiter=found, strict=True)
    header = None
    while True:
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            where = f"line {reader.line_num}"
            bad(where, ValueError(f"read_rows: {path}, {where} must be properly quoted fields, got {error}"))
            continue
        where = f"line {reader.line_num}"
        if header is None:
            header = values
        elif values and len(values) == len(header):
            yield where, dict(zip(header, values, strict=True))
        elif values:
            message = f"read_rows: {path}, {where} must be {len(header)} fields as the header, got {len(values)}"
            bad(where, ValueError(message))


def _all_but_a_header(bad: Bad) -> Bad:
    """Raises for the first line, without which no other one can be read."""
    return lambda where, error: (_raised if where == "line 1" else bad)(where, error)


def _conll(path: Path, bad: Bad) -> Iterator[Row]:
    head = _lines(path, lambda where, error: None)  # which is told of when it is read
    for where, tokens, tags in read_sentences(_lines(path, bad), head, str(path), bad):
        yield where, {"tokens": tokens, "tags": tags} if tags else {"tokens": tokens}


def _parquet(path: Path, bad: Bad) -> Iterator[Row]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        number = 0
        for batch in ParquetFile(path).iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield f"row {number}", row
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"read_rows: {str(path)!r} must be a readable parquet file, got {str(error).splitlines()[0]}") from None
