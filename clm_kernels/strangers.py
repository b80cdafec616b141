"""Files from strangers: how much of one is read at all, and of what form the JSON in it may be."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import refuse, require

MEGABYTE = 1 << 20
DEPTH = 32  # brackets in brackets
CONTAINERS = 100_000  # arrays and objects of one text: at most 232 bytes each, 23 MB
LENGTH = 1000  # characters of a name, a label, a word
NUMBERS = 2**63
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', flags=re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def brief(value: object, limit: int = 80) -> str:
    """A value in a message: of a stranger's megabyte the beginning."""
    return cut(repr(value), limit)


def cut(text: str, limit: int = 80) -> str:
    """The beginning of a text that may be of any length."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text):,} characters)"


def check_file(path: str | os.PathLike, function: str, most: int) -> int:
    """The size of a file in bytes, of which nothing has been read yet.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is larger than `most`, or no file but a folder, a pipe or a device, which may have no end.
    """
    state, name = os.stat(path), cut(repr(os.fspath(path)), 4096)
    require(stat.S_ISREG(state.st_mode), function, name, "a file", "a folder, a pipe or a device")
    require(state.st_size <= most, function, name, f"at most {most:,} bytes", f"{state.st_size:,}; it is not what it should be")
    return state.st_size


def parse_json(text: str | bytes, function: str, what: str, *, most: int = MEGABYTE, unique: bool = False) -> Any:
    """JSON of bounded size, depth and number of parts, which are counted before it is read.

    Args:
        function, what: in whose name, and of what, errors are raised.
        most: bytes.
        unique: whether a name that stands twice in one object is refused, where another program reads the same text.

    Raises:
        ValueError: for anything else.
    """
    import numpy as np  # here, as command lines are read without it

    try:
        data = text.encode() if isinstance(text, str) else text
        require(len(data) <= most, function, what, f"JSON of at most {most:,} bytes", f"{len(data):,}")
        brackets = np.frombuffer(_STRING.sub(b"", data).translate(None, _NO_BRACKETS), np.uint8)
        opens = (brackets == ord("[")) | (brackets == ord("{"))
        depth = int(np.where(opens, 1, -1).cumsum().max(initial=0))
        require(depth <= DEPTH, function, what, f"JSON of at most {DEPTH} levels", f"{depth:,}")
        count = int(opens.sum())
        require(count <= CONTAINERS, function, what, f"JSON of at most {CONTAINERS:,} arrays and objects", f"{count:,}")
        return json.loads(data, object_pairs_hook=_once if unique else None)
    except (json.JSONDecodeError, UnicodeError, RecursionError) as error:
        refuse(function, what, "JSON in UTF-8", cut(str(error)))
    except ValueError as error:
        if type(error) is ValueError and str(error).startswith(f"{function}: "):
            raise
        refuse(function, what, "JSON with names once and numbers of at most 4,300 digits", cut(str(error)))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name twice")
    return found


def read_json(path: str | os.PathLike, function: str, what: str, *, most: int = MEGABYTE) -> dict[str, Any]:
    """The JSON object in a file.

    Args:
        what: the file should be, as in "the record of a run".

    Raises:
        ValueError: if there is no such file, it is larger than `most` bytes, or holds anything else.
    """
    name = cut(repr(os.fspath(path)), 4096)
    try:
        check_file(path, function, most)
        data = Path(path).read_bytes()
    except OSError as error:
        refuse(function, name, what, error.strerror)
    try:
        found = parse_json(data, function, "text that", most=most)
    except ValueError as error:
        refuse(function, name, what, str(error).removeprefix(f"{function}: "))
    require(isinstance(found, dict), function, name, what, type(found).__name__)
    return found


def fits(value: Any, form: Any) -> bool:
    """Whether what JSON gave is of a form.

    A form is a type (a text is of at most 1,000 characters, a number below 2**63), None, ``[form]`` for a list of any
    length, ``{str: form}`` for an object with any names, ``{"name": form, "other?": form}`` for one with these, the
    second of which may be missing, or a tuple of forms, any of which will do.
    """
    if isinstance(form, tuple):
        return any(fits(value, one) for one in form)
    if isinstance(form, list):
        return isinstance(value, (list, tuple)) and all(fits(item, form[0]) for item in value)
    if form is str:
        return isinstance(value, str) and len(value) <= LENGTH
    if form in (int, float):
        return type(value) in (int, form) and (value != value or -NUMBERS < value < NUMBERS)
    if not isinstance(form, dict):
        return value is None if form is None else type(value) is form
    if not isinstance(value, dict):
        return False
    if str in form:
        return all(fits(name, str) and fits(item, form[str]) for name, item in value.items())
    known = {name.removesuffix("?"): item for name, item in form.items()}
    needed = {name for name in form if not name.endswith("?")}
    return needed <= value.keys() <= known.keys() and all(fits(item, known[name]) for name, item in value.items())


@contextmanager
def inside(function: str, path: str | os.PathLike) -> Iterator[None]:
    """Names the file, and what to do, in the refusal of anything that stands in it."""
    try:
        yield
    except ValueError as error:
        name = cut(repr(os.fspath(path)), 4096)
        told = (
            str(error)
            if str(error).startswith(f"{function}: {name}")
            else f"{function}: {name} is incomplete or altered, {error}"
        )
        raise ValueError(f"{told}; fetch or make it again") from error
