"""Reads .jsonl, .csv, .tsv and .parquet row by row; every message names the file and the line."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..errors import listed, require

SUFFIXES = (".jsonl", ".csv", ".tsv", ".parquet")
Row = tuple[str, dict[str, Any]]  # where it stands, e.g. "line 3", and what it holds


def read_rows(path: str | Path) -> Iterator[Row]:
    """Rows of a table on disk.

    Raises:
        ValueError: if the file is missing, empty, not UTF-8, of an unknown kind, or broken; names the line.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    require(suffix in SUFFIXES, "read_rows", "the file's name", f"one that ends in {listed(SUFFIXES)}", repr(str(path)))
    require(path.is_file(), "read_rows", repr(str(path)), "an existing file", "a folder" if path.is_dir() else "nothing")
    empty = True
    for row in {".jsonl": _jsonl, ".parquet": _parquet}.get(suffix, _csv)(path):
        empty = False
        yield row
    require(not empty, "read_rows", repr(str(path)), "a file with at least one row", "none")


def read_lines(source: Iterable[bytes], name: str) -> Iterator[str]:
    """Lines of UTF-8 text without their ends; a byte order mark at the start is dropped.

    Raises:
        ValueError: if a line is not UTF-8.
    """
    for number, line in enumerate(source, start=1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            found = f"{error.reason} at byte {error.start}"
            raise ValueError(f"read_lines: {name}, line {number} must be UTF-8, got {found}") from None
        yield text.removesuffix("\n").removesuffix("\r")


def _lines(path: Path) -> Iterator[str]:
    with open(path, "rb") as file:
        yield from read_lines(file, str(path))


def _jsonl(path: Path) -> Iterator[Row]:
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"read_rows: {path}, line {number} must be one JSON object, got {error}") from None
        require(isinstance(row, dict), "read_rows", f"{path}, line {number}", "one JSON object", type(row).__name__)
        yield f"line {number}", row


def _csv(path: Path) -> Iterator[Row]:
    dialect = "excel-tab" if path.suffix.lower() == ".tsv" else "excel"
    reader = csv.reader((line + "\n" for line in _lines(path)), dialect, strict=True)
    try:
        header = next(reader, [])
        for values in reader:
            if not values:
                continue
            where = f"line {reader.line_num}"
            expected = f"{len(header)} fields as the header"
            require(len(values) == len(header), "read_rows", f"{path}, {where}", expected, len(values))
            yield where, dict(zip(header, values, strict=True))
    except csv.Error as error:
        raise ValueError(f"read_rows: {path}, line {reader.line_num} must be properly quoted fields, got {error}") from None


def _parquet(path: Path) -> Iterator[Row]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        number = 0
        for batch in ParquetFile(path).iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield f"row {number}", row
    except (ArrowException, OSError) as error:
        raise ValueError(f"read_rows: {str(path)!r} must be a readable parquet file, got {str(error).splitlines()[0]}") from None
