"""The eight tasks, and the parts of their data that a comparison of a given size uses."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..common import ROOT

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


def write_parts(task: Task, sizes: Mapping[str, int | None], folder: Path, source: Path) -> dict[str, str]:
    """Writes the examples that are used, the same ones for every method and seed.

    Args:
        sizes: how many of train, validation and test; None for all. A part that is smaller is taken whole.
        source: directory with a folder of the task's name.

    Returns:
        Path of each part.

    Raises:
        ValueError: if the data is missing, or a size is too small to hold every label of train.
    """
    paths, known = {}, set()
    for part in PARTS:
        path = source / task.name / f"{part}.jsonl"
        if not path.is_file():
            raise ValueError(f"tasks: {task.name} must be in {source} (CLM_KERNELS_DATA names another place), got no {path.name}")
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        if part == "train":
            rows = drawn(rows, sizes[part], task.name, cover=True)
            known = labels_of(rows)
        else:  # a label that train never shows, as two of srl_ewt's tags, cannot be asked for
            rows = drawn([row for row in rows if labels_of([row]) <= known], sizes[part], task.name)
        folder.mkdir(parents=True, exist_ok=True)
        paths[part] = str(folder / f"{task.name}.{part}.jsonl")
        Path(paths[part]).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return paths


def drawn(rows: list[dict], size: int | None, seed: str, cover: bool = False) -> list[dict]:
    """`size` rows in an order drawn with `seed`; with `cover`, rows with labels not seen before come first."""
    rows = list(rows)
    random.Random(seed).shuffle(rows)
    if size is None or size >= len(rows):
        return rows
    if cover:
        seen: set[str] = set()
        first, rest = [], []
        for row in rows:
            (rest if labels_of([row]) <= seen else first).append(row)
            seen |= labels_of([row])
        if len(first) > size:
            raise ValueError(f"tasks: the train size of {seed} must be at least {len(first)}, to show every label, got {size}")
        rows = first + rest
    return rows[:size]


def labels_of(rows: Iterable[Mapping]) -> set[str]:
    return {label for row in rows for label in ([row["label"]] if "label" in row else row["tags"])}
