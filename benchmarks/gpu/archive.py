"""All that a call writes, in one file of a size that travels."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

LIMIT = 16 << 20  # bytes
HEAD, TAIL = 64 << 10, 1 << 20  # bytes of a log that are kept


def pack(folder: Path, target: Path, limit: int = LIMIT) -> list[str]:
    """Writes ``folder``'s files into the archive, JSON first, then the smallest; of a long log its beginning and its end.

    Returns:
        Names of the files that found no room.
    """
    files = sorted((p for p in folder.rglob("*") if p.is_file()), key=lambda p: (p.suffix != ".json", p.stat().st_size))
    room, left_out = limit - (64 << 10), []  # counted before compression, which may make nothing smaller
    whole = target.with_name(target.name + ".part")
    with tarfile.open(whole, "w:gz") as archive:
        for path in files:
            data, name = _shortened(path), str(path.relative_to(folder))
            needed = len(data) + 4 * tarfile.BLOCKSIZE
            if needed > room:
                left_out.append(name)
                continue
            room -= needed
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    whole.replace(target)
    return left_out


def _shortened(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix == ".json" or len(data) <= HEAD + TAIL:
        return data
    return data[:HEAD] + f"\n... {len(data) - HEAD - TAIL} bytes left out ...\n".encode() + data[-TAIL:]
