"""Fuzzes every file that the package reads: ``python tests/reliability/fuzz.py --seconds 600 --seed 1``.

Only the package's own errors are allowed, each within a second of CPU time and 50 MB; a delta that is refused or
reverted leaves no trace in a model.
"""

import argparse
import random
import re
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

from clm_kernels.finetune.files import NotUtf8

SECONDS, MEMORY = 1.0, 50 << 20
OURS = re.compile(r"[A-Za-z_.]+(\[\d+\])?: \S")
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident(what: str) -> int:
    """Bytes that this process holds (VmRSS), or has held at most since `watch` (VmHWM); 0 where that is not told."""
    found = re.search(rf"{what}:\s+(\d+) kB", STATUS.read_text()) if STATUS.exists() else None
    return int(found[1]) << 10 if found else 0


def watch() -> int:
    """Begins to watch the memory, of which it returns what is held now."""
    if CLEAR.exists():
        CLEAR.write_text("5")
    return resident("VmRSS")


def wrong(error: BaseException) -> str:
    """Why this is not an error that the package may raise; nothing if it is."""
    if type(error) not in (ValueError, NotUtf8):
        return "another error"
    message = str(error)
    return "" if OURS.match(message) and "\n" not in message and len(message) < 4000 else "another message"


def attempt(read, path: Path) -> tuple[str, str]:
    """Reads a file: what happened, ``read``, ``refused`` or what was wrong with that, and the error."""
    held, began, what, told = watch(), time.process_time(), "read", ""
    try:
        read(path)
    except BaseException as error:
        what, told = wrong(error) or "refused", "".join(traceback.format_exception(error)[-6:])
    seconds, memory = time.process_time() - began, resident("VmHWM") - held
    if seconds > SECONDS:
        return "too slow", f"{seconds:.1f} s\n{told}"
    if memory > MEMORY:
        return "too large", f"{memory >> 20} MB\n{told}"
    return what, told


def run(
    seed: int, files: int | None = None, seconds: float = float("inf"), keep: Path | None = None
) -> tuple[Counter, list[str]]:
    """Tries files until there have been so many, or for so long.

    Returns:
        How often each kind of file had each outcome, and what went wrong.
    """
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "helpers")]
    from subjects import copy_of, subjects

    counts, failures, draw, end = Counter(), [], random.Random(seed), time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        known = subjects(Path(place))
        for subject in known.values():
            subject.read(subject.write(None, Path(place)))  # as it should be, and what is loaded but once
        while sum(counts.values()) < (files or 2**62) and time.monotonic() < end:
            name = draw.choices(list(known), [subject.share for subject in known.values()])[0]
            path = known[name].write(draw, Path(place))
            what, told = attempt(known[name].read, path)
            counts[name, what] += 1
            if what not in ("read", "refused"):
                failures.append(f"{name}, file {sum(counts.values())} of seed {seed}: {what}\n{told}")
                if keep:
                    keep.mkdir(exist_ok=True, parents=True)
                    copy_of(path, keep / f"{len(failures)}-{path.name}")
    return counts, failures


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=600)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--files", type=int)
    options.add_argument("--keep", type=Path, help="where files that broke something are kept")
    given = options.parse_args()
    counts, failures = run(given.seed, given.files, given.seconds, given.keep)
    for (name, what), count in sorted(counts.items()):
        print(f"{name:<14} {what:<14} {count:>9,}")
    print(f"{sum(counts.values()):,} files, {len(failures)} failures")
    for failure in failures[:20]:
        print(failure)
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
