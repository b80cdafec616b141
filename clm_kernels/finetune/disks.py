"""What becomes of a folder when its disk is full: one line that names what does not fit, and nothing half-written."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import require

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


@contextmanager
def filling(folder: Path, function: str) -> Iterator[None]:
    """A folder that is new, or as it was, when what fills it fails; after a refusal, which may be of what others have put there, what is in it stays.

    Raises:
        ValueError: in the name of `function`, if there can be no such folder.
        RuntimeError: as `advice_when_a_disk_is_full`.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    found = f"the file {str(folder)!r}" if there == folder else f"{str(folder)!r} below the file {str(there)!r}"
    require(there.is_dir(), function, "output", "a folder", found)
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    empty = bool(made) or not any(folder.iterdir())
    try:
        with advice_when_a_disk_is_full(folder, function):
            yield
    except BaseException as error:
        with suppress(OSError):  # else it would hide what has happened
            for path in folder.iterdir() if empty and not isinstance(error, ValueError) else ():
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            for path in made:
                path.rmdir()
        raise


@contextmanager
def advice_when_a_disk_is_full(output: Path, function: str = "train") -> Iterator[None]:
    """Turns the many errors that mean so, or that a folder cannot be written to any more, into one line.

    Raises:
        RuntimeError: in their place.
    """
    try:
        yield
    except Exception as error:
        if not (reason := _refused_by_the_disk(error, output)):
            raise
        raise RuntimeError(f"{function}: {_blamed(error, output)} ({reason})") from error


def _blamed(error: Exception, output: Path) -> str:
    """What did not fit, where the error names it; else it was something in the output."""
    path, temporary = str(getattr(error, "filename", None) or output), tempfile.gettempdir()
    if _inside(path, str(output)):
        return f"output must be a folder with room to write to, got {str(output)!r}"
    if path.startswith(os.path.join(temporary, "clm-")):  # as ours begin
        return f"TMPDIR must be a folder with room for temporary files, got {temporary!r}"
    return f"{path!r} must be a file on a disk with room to write to, got one without"


def _inside(path: str, folder: str) -> bool:
    return os.path.join(os.path.abspath(path), "").startswith(os.path.join(os.path.abspath(folder), ""))


def _refused_by_the_disk(error: BaseException, output: Path) -> str:
    """What the operating system says; empty if it is another kind of error."""
    if isinstance(error, OSError):
        inside = error.filename is not None and _inside(str(error.filename), str(output))
        full = error.errno in FULL or (inside and error.errno in (errno.EACCES, errno.EPERM, errno.EIO))
        return os.strerror(error.errno) if full and error.errno else ""
    told = next((os.strerror(number) for number in FULL if os.strerror(number) in str(error)), "")
    by_torch = isinstance(error, RuntimeError) and any(
        words in str(error) for words in ("PytorchStreamWriter", "unexpected pos", "iostream error")
    )
    return told or ("a file could not be written whole" if by_torch else "")
