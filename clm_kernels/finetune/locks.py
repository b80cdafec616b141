"""One run at a time in a folder."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import refuse, require
from ..files import write_atomically

LOCK, OWNER = ".lock", ".lock.json"  # the operating system holds the first for us, and lets go when the process is gone


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds a folder, and makes it if there is none; it goes again if nothing is left in it.

    Raises:
        ValueError: if another run holds it, by its process and machine, or nothing can be written there.
    """
    require(not folder.exists() or folder.is_dir(), "train", "output", "a folder", f"the file {str(folder)!r}")
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        _sign(folder / OWNER)
    except Timeout:
        refuse("train", "output", "a folder that no other run is writing to", f"{str(folder)!r}, held by {_owner(folder)}")
    except OSError as error:
        _let_go(lock, folder)
        _remove_empty(made)
        refuse("train", "output", "a folder that can be written to", f"{str(folder)!r} ({error.strerror or error})")
    try:
        yield
    finally:
        _let_go(lock, folder)
        _remove_empty(made)


def _sign(path: Path) -> None:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    write_atomically(path, json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}).encode())


def _owner(folder: Path) -> str:
    try:
        told = json.loads((folder / OWNER).read_text())
        return f"process {told['pid']} on {told['host']} since {told['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _let_go(lock: FileLock, folder: Path) -> None:
    """Takes the files away while they are still ours; the lock's own, Windows gives away only afterwards."""
    if not lock.is_locked:
        return
    for path in (folder / OWNER, folder / LOCK):
        with suppress(OSError):
            path.unlink()
    lock.release()
    if os.name == "nt":
        with suppress(OSError):
            (folder / LOCK).unlink()


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()
