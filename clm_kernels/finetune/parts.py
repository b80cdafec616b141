"""Where the training data comes from, if that is no file: a folder with a file for each part, a hub, or standard input."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import listed, require
from .files import SUFFIXES
from .hub import fetched, on_hub, pinned

if TYPE_CHECKING:
    from .config import Data

STDIN, READ = "-", "standard input"
SPOOLED = "clm-input-"  # how the folder begins in which that stands as a file
SHARD = re.compile(r"-\d{5}-of-\d{5}$")  # as data sets on a hub name their files
NAMES = {  # part -> how its file may be called, without its end
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "eval"),
    "test": ("test", "testing"),
}


@contextmanager
def with_files(data: Data) -> Iterator[Data]:
    """The same with a file for each part, where `train` is a folder, a data set of the hub or standard input.

    What is read from standard input stands in a temporary file until the end of the context.

    Raises:
        ValueError: for a folder without train, with two files for a part, or with a part that is given too; for standard input
            that is given twice, empty, or shared by several processes.
        RuntimeError: if the hub does not give its data set.
    """
    for name in ("validation", "test"):
        given = getattr(data, name)
        require(
            given != STDIN and not on_hub(given),
            "train",
            name,
            "a file, as standard input and the hub are train's alone",
            repr(given),
        )
    if on_hub(data.train):
        folder = fetched(pinned(data.train), frozenset(name for names in NAMES.values() for name in names))
        yield of_folder(replace(data, train=str(folder)))
        return
    if data.train != STDIN:
        yield of_folder(data) if data.train and Path(data.train).is_dir() else data
        return
    one = os.environ.get("WORLD_SIZE", "1") == "1"
    require(one, "train", "train", "a file where several processes read it", repr(STDIN))
    with tempfile.TemporaryDirectory(prefix=SPOOLED) as folder:
        file = str(_spooled(Path(folder)))
        try:
            yield replace(data, train=file)
        except ValueError as error:
            raise ValueError(str(error).replace(repr(file), READ).replace(file, READ)) from error


def called(path: str) -> str:
    """What people call a file: its path, or what stands in it for a while."""
    return READ if Path(path).parent.name.startswith(SPOOLED) else path


def of_folder(data: Data) -> Data:
    """The same with the files of the folder that `train` names, by `NAMES`."""
    folder = Path(data.train)
    found = {part: _named(folder, part, names) for part, names in NAMES.items()}
    there = [path.name for path in sorted(folder.iterdir())]
    expected = f"a folder with a file train, and perhaps validation and test, that end in {listed(SUFFIXES)}"
    require(bool(found["train"]), "train", repr(str(folder)), expected, listed(there) or "nothing")
    for part in ("validation", "test"):
        twice = bool(found[part]) and bool(getattr(data, part))
        require(
            not twice, "train", part, f"left out, as {str(folder)!r} has {Path(found[part]).name!r}", repr(getattr(data, part))
        )
    return replace(data, **{part: path for part, path in found.items() if path})


def part_of_test(path: str) -> str:
    """The file itself; of a folder of parts, that of test."""
    folder = Path(path)
    if not folder.is_dir():
        return path
    there = listed(each.name for each in sorted(folder.iterdir()))
    file = _named(folder, "test", NAMES["test"])
    require(bool(file), "evaluate", repr(path), "a file, or a folder with a file test", there or "nothing")
    return file


def _named(folder: Path, part: str, names: tuple[str, ...]) -> str:
    stems = {path: SHARD.sub("", path.stem.lower()) for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES}
    files = [path for path, stem in stems.items() if stem in names]
    one = f"one file for {part}"
    require(len(files) <= 1, "train", repr(str(folder)), f"a folder with {one}", listed(path.name for path in files))
    return str(files[0]) if files else ""


def _spooled(folder: Path) -> Path:
    """Standard input as a file: of JSON where it begins with ``{``, else a table whose delimiter is found."""
    whole = folder / READ
    with open(whole, "wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
    with open(whole, "rb") as file:
        begin = file.read(1 << 16).removeprefix(b"\xef\xbb\xbf").lstrip()
    require(bool(begin), "train", READ, "rows of JSON, or a table with a header", "nothing")
    return whole.rename(whole.with_suffix(".jsonl" if begin.startswith(b"{") else ".csv"))
