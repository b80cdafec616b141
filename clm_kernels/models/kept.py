"""Hidden states of texts, kept in memory and, read back by memory mapping, in one file of bounded size.

The file holds the rows one after the other, an index as JSON, a digest of both, the index's length and a mark. It is written
beside its place and renamed there when it is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from ..files import named
from ..strangers import fits

MARK = b"clmkept1"
DIGEST, LENGTH = 16, 8  # bytes
TAIL = DIGEST + LENGTH + len(MARK)
AT_ONCE = 1 << 22  # bytes
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
FORM = {"made_by": str, "beside": int, "places": {str: [int]}, "dtype?": str, "width?": int}  # of an index; the last two of rows


class Damaged(ValueError):
    """What stands in a file cannot be used; the message says why."""


class Rows:
    """Rows ``(tokens, H)`` by key, in memory.

    Attributes:
        nbytes: of all of them.
    """

    def __init__(self, max_bytes: float):
        self.max_bytes, self.nbytes = max_bytes, 0
        self._rows: dict[bytes, Tensor] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, key: bytes) -> Tensor | None:
        return self._rows.get(key)

    def copy(self) -> Rows:
        """The same rows, to which others may be added apart."""
        same = Rows(self.max_bytes)
        same._rows, same.nbytes = dict(self._rows), self.nbytes
        return same

    def keep(self, key: bytes, row: Tensor) -> None:
        """Keeps a copy, unless that would take more than `max_bytes` in all."""
        if self.nbytes + row.nbytes <= self.max_bytes:
            self._rows[key] = row.clone()
            self.nbytes += row.nbytes


class Mapped:
    """Rows ``(tokens, H)`` of a file that `Writer` has written.

    Attributes:
        nbytes: of all of them.
        beside: what the writer was told of what else the layers return.

    Args:
        made_by: what the rows depend on; the file must have been written for the same.

    Raises:
        Damaged: if it is not whole, or written for something else.
        OSError: if it cannot be read.
    """

    def __init__(self, path: Path, made_by: str):
        index, self.nbytes = _whole_index(path)
        if index["made_by"] != made_by:
            raise Damaged("made by another model or other versions")
        self.beside = index["beside"]
        self._dtype, self._width = DTYPES.get(index.get("dtype", ""), torch.float32), index.get("width", 0)
        self._places = {bytes.fromhex(key): place for key, place in index["places"].items()}
        self._bytes = np.memmap(path, np.uint8, "c", shape=(self.nbytes,))

    def __len__(self) -> int:
        return len(self._places)

    def keys(self) -> list[bytes]:
        return list(self._places)

    def get(self, key: bytes) -> Tensor | None:
        if key not in self._places:
            return None
        start, end = self._places[key]
        return torch.from_numpy(self._bytes[start:end]).view(self._dtype).view(-1, self._width)


class Writer:
    """Writes rows into a file beside `path`, which takes its place by `finish`; as a context, it leaves nothing half done.

    Args:
        max_bytes: of the rows; those beyond are left out.
    """

    def __init__(self, path: Path, made_by: str, max_bytes: float):
        self.path, self.max_bytes, self.nbytes = path, max_bytes, 0
        self._index: dict = {"made_by": made_by, "places": {}}
        self._digest = hashlib.blake2b(digest_size=DIGEST)
        self._beside = path.with_name(f".{path.name}.{os.getpid()}")
        self._file = self._beside.open("wb")

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            with suppress(OSError):  # of what was not written yet, on a disk that is full; what `finish` has closed is whole
                self._file.close()
        finally:
            self._beside.unlink(missing_ok=True)

    def keep(self, key: bytes, row: Tensor) -> None:
        if key.hex() in self._index["places"] or self.nbytes + row.nbytes > self.max_bytes:
            return
        data = row.detach().cpu().contiguous().view(torch.uint8).numpy().data
        with named(self.path):
            self._file.write(data)
        self._digest.update(data)
        self._index |= {"dtype": str(row.dtype).removeprefix("torch."), "width": row.shape[-1]}
        self._index["places"][key.hex()] = (self.nbytes, self.nbytes + row.nbytes)
        self.nbytes += row.nbytes

    def finish(self, beside: int) -> None:
        """Puts the file in its place; `beside` stands in it for `Mapped.beside`."""
        index = json.dumps(self._index | {"beside": beside}).encode()
        self._digest.update(index)
        with named(self.path):
            self._file.write(index + self._digest.digest() + len(index).to_bytes(LENGTH, "little") + MARK)
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        os.replace(self._beside, self.path)


def _whole_index(path: Path) -> tuple[dict, int]:
    """The index of a file whose bytes are as they were written, and how many stand before it."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END) - TAIL
        file.seek(max(0, size))
        tail = file.read(TAIL)
        length = int.from_bytes(tail[DIGEST : DIGEST + LENGTH], "little")
        if size < 0 or not tail.endswith(MARK) or length > size:
            raise Damaged("not whole")
        file.seek(0)
        if _digest(file, size) != tail[:DIGEST]:
            raise Damaged("not as it was written")
        file.seek(size - length)
        return _checked(file.read(length), size - length), size - length


def _checked(text: bytes, nbytes: int) -> dict[str, Any]:
    """An index whose rows lie in so many bytes; a right digest is no proof that `Writer` has written it."""
    try:
        index = json.loads(text)
        known = (
            fits(index, FORM)
            and index.get("dtype", "float32") in DTYPES
            and all(_lies_within(place, index, nbytes) for place in index["places"].values())
        )
        known = known and all(bytes.fromhex(key) for key in index["places"])
    except (ValueError, RecursionError):
        known = False
    if not known:
        raise Damaged("without an index of rows")
    return index


def _lies_within(place: list[int], index: dict[str, Any], nbytes: int) -> bool:
    width = index.get("width", 0) * (DTYPES[index["dtype"]].itemsize if "dtype" in index else 0)
    return len(place) == 2 and 0 <= place[0] <= place[1] <= nbytes and width > 0 and (place[1] - place[0]) % width == 0


def _digest(file: BinaryIO, size: int) -> bytes:
    digest = hashlib.blake2b(digest_size=DIGEST)
    while size > 0 and (data := file.read(min(AT_ONCE, size))):
        digest.update(data)
        size -= len(data)
    return digest.digest()
