"""The eight tasks, and the parts of their data that a comparison of a given size uses."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..common import ROOT
from .drawing import drawn, labels_of
from .fresh import fresh

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Task:
    """A task; `score` picks the best checkpoint and the learning rate on validation, and is reported on test."""

    name: str
    kind: str
    score: str


TASKS = {
    task.name: task
    for task in (
        Task("banking77", "sequence", "accuracy"),
        Task("clinc150", "sequence", "accuracy"),
        Task("goemotions_sentiment", "sequence", "accuracy"),
        Task("unfair_tos", "sequence", "macro_f1"),  # nine of ten clauses are fair
        Task("hint3_curekart", "sequence", "accuracy"),
        Task("srl_ewt", "token", "f1"),
        Task("bc5cdr", "token", "f1"),
        Task("snips_slots", "token", "f1"),
    )
}


def data_directory() -> Path:
    """``CLM_KERNELS_DATA``, or ``../shared/data`` beside the repository."""
    return Path(os.environ.get("CLM_KERNELS_DATA", ROOT.parent / "shared" / "data"))


def write_parts(
    task: Task, sizes: Mapping[str, int | None], folder: Path, source: Path, fresh_for: int | None = None
) -> dict[str, str]:
    """Writes the examples that are used, the same ones for every method and seed.

    Args:
        sizes: how many of train, validation and test; None for all. A part that is smaller is taken whole.
        source: directory with a folder of the task's name.
        fresh_for: a seed, for rows that are drawn without it are then left alone, as `fresh` says.

    Returns:
        Path of each part.

    Raises:
        ValueError: if the data is missing, or a size is too small to hold every label of train.
    """
    rows = {}
    for part in PARTS:
        path = source / task.name / f"{part}.jsonl"
        if not path.is_file():
            raise ValueError(f"tasks: {task.name} must be in {source} (CLM_KERNELS_DATA names another place), got no {path.name}")
        rows[part] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if fresh_for is None:
        rows["train"] = drawn(rows["train"], sizes["train"], task.name, cover=True)
        known = labels_of(rows["train"])  # what train never shows, as two of srl_ewt's tags, cannot be asked for
        for part in ("validation", "test"):
            rows[part] = drawn([row for row in rows[part] if labels_of([row]) <= known], sizes[part], task.name)
    else:
        rows = fresh(rows, sizes, task.name, fresh_for)
        known = labels_of(rows["train"])
        rows = {part: [row for row in rows[part] if labels_of([row]) <= known] for part in PARTS}
    folder.mkdir(parents=True, exist_ok=True)
    paths = {part: folder / f"{task.name}.{part}.jsonl" for part in PARTS}
    for part, path in paths.items():
        path.write_text("".join(json.dumps(row) + "\n" for row in rows[part]), encoding="utf-8")
    return {part: str(path) for part, path in paths.items()}
