"""The manifest of a checkpoint: written last, it says what stands in the folder, and what the run was that left it.

A folder without one was not finished. One whose files have other hashes is damaged.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..files import sync_folder, write_atomically
from ..strangers import brief, fits, read_json

MANIFEST, FORMAT = "manifest.json", "clm_kernels.checkpoint/1"
SEAL = "sha256"  # over all else that the manifest says
FORM = {
    "format": str,
    "files": {str: str},
    "beside": {str: (str, None)},
    "step": int,
    "best": (int, None),
    "run": dict,
}


def seal(folder: Path, beside: Iterable[Path] = (), **told: Any) -> None:
    """Brings all files of a folder to the disk, and then its manifest.

    Args:
        beside: files of the run outside of the folder that belong to it; those that there are not are recorded as such.
        told: what else the manifest says, as JSON has it.
    """
    files = {str(path.relative_to(folder).as_posix()): _hashed(path, sync=True) for path in _files(folder)}
    content = {"format": FORMAT, **told, "files": files, "beside": {path.name: _of_file(path) for path in beside}}
    write_atomically(folder / MANIFEST, json.dumps({**content, SEAL: _of_json(content)}, indent=1).encode())
    sync_folder(folder)
    sync_folder(folder.parent)


def read_manifest(folder: Path) -> dict[str, Any]:
    """What `seal` told; the files themselves are not looked at.

    Raises:
        ValueError: if there is none, or it is not as it was written.
    """
    if not (folder / MANIFEST).exists():
        raise ValueError(f"{MANIFEST} is missing, which is written last")
    try:
        content = read_json(folder / MANIFEST, "read_manifest", "a manifest")
    except ValueError:
        content = {}
    if content.pop(SEAL, None) != _of_json(content):
        raise ValueError(f"{MANIFEST} is not as it was saved")
    if not fits(content, FORM) or content["format"] != FORMAT:
        raise ValueError(f"{MANIFEST} is none of {FORMAT}, but {brief(content.get('format'))}")
    return content


def damage(folder: Path, beside: Iterable[Path] = ()) -> str:
    """What is wrong with a sealed folder, by a reading of every byte; empty where nothing is.

    Args:
        beside: files outside of the folder that must be what they were when it was sealed.
    """
    try:
        told = read_manifest(folder)
        there = {str(path.relative_to(folder).as_posix()): path for path in _files(folder)}
        for name, expected in told["files"].items():
            if name not in there:
                return f"{name} is missing"
            if _hashed(there[name]) != expected:
                return f"{name} is not as it was saved"
        if strangers := sorted(there.keys() - told["files"].keys()):
            return f"{strangers[0]} is none of its files"
        for path in beside:
            if _of_file(path) != told["beside"].get(path.name):
                return f"{path.name} beside it is not the one that it was saved with"
    except (OSError, ValueError) as error:
        return str(error)
    return ""


def _files(folder: Path) -> list[Path]:
    """Hidden ones are left out, as what another write has begun beside its target."""
    found = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return sorted(path for path in found if path != folder / MANIFEST)


def _of_file(path: Path) -> str | None:
    return _hashed(path) if path.is_file() else None


def _hashed(path: Path, sync: bool = False) -> str:
    with open(path, "r+b" if sync else "rb") as file:  # Windows brings to the disk only what may be written to
        if sync:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _of_json(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
