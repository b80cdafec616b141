"""``trials.csv``: what a search has tried, one line a trial."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ...errors import require
from ...files import write_atomically
from ...strangers import MEGABYTE, check_file

SCORE, SECONDS = "validation", "seconds"


class Trial(NamedTuple):
    """Options that were tried, the score of the best checkpoint on the validation data, and seconds of training."""

    options: dict[str, float]
    score: float
    seconds: float


def write_trials(path: Path, trials: Sequence[Trial]) -> None:
    """Writes all; numbers read back exactly."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", *trials[0].options, SCORE, SECONDS])
    writer.writerows(
        [i, *trial.options.values(), trial.score, round(trial.seconds, 1)] for i, trial in enumerate(trials, start=1)
    )
    write_atomically(path, text.getvalue().encode())


def read_trials(path: Path, names: tuple[str, ...]) -> list[Trial]:
    """What `write_trials` wrote of a search for these options.

    Raises:
        ValueError: for anything else.
    """
    check_file(path, "train", MEGABYTE)
    header, *rows = list(csv.reader(path.read_text(encoding="utf-8", errors="replace").splitlines())) or [[]]
    same = header == ["trial", *names, SCORE, SECONDS] and all(len(row) == len(header) for row in rows)
    require(same, "train", repr(str(path)), f"the table of a search for {', '.join(names)}", "another table")
    try:
        numbers = [[_number(value) for value in row[1:]] for row in rows]
    except ValueError:
        numbers = [[math.nan]]
    finite = all(math.isfinite(value) for row in numbers for value in row)
    require(finite, "train", repr(str(path)), "a table of numbers", "something else")
    return [Trial(dict(zip(names, row)), *row[len(names) :]) for row in numbers]


def _number(text: str) -> float:
    return int(text) if text.isdecimal() else float(text)
