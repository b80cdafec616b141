"""Probabilities before and after `train`'s temperature, on the eight tasks: ``python -m benchmarks.calibration``.

A run of `train` each, at its defaults, of all-MiniLM-L6-v2 on 500 examples; what the temperature and the thresholds of
``--reject`` then do on test texts that chose neither.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

import datasets
import torch
import transformers

from clm_kernels.demo import model_directory
from clm_kernels.finetune import TrainConfig, train
from clm_kernels.finetune.judging.evaluation import Found, judge

from .common import RESULTS
from .tasks.tasks import TASKS, data_directory, write_parts

SIZES = {"train": 500, "validation": 300, "test": 1000}
PRECISIONS = (0.9, 0.95)
FOLDER = RESULTS / "calibration"
CELLS, TABLE = "cells.jsonl", "table.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="print the table of what is there, and run nothing")
    asked = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    if not asked.table:
        datasets.disable_progress_bars()
        transformers.utils.logging.set_verbosity_error()
        torch.set_num_threads(1)
        done = {(cell["task"], cell["seed"]) for cell in read(FOLDER / CELLS)}
        for task in TASKS:
            if (task, asked.seed) not in done:
                with (FOLDER / CELLS).open("a", encoding="utf-8") as cells:
                    cells.write(json.dumps(run(task, asked.seed)) + "\n")
    shown = table(read(FOLDER / CELLS))
    (FOLDER / TABLE).write_text(f"{shown}\n", encoding="utf-8")
    print(shown)


def run(task: str, seed: int) -> dict[str, Any]:
    """Trains on a task, and tells what its probabilities are worth on test."""
    with tempfile.TemporaryDirectory() as folder:
        parts = write_parts(TASKS[task], SIZES, Path(folder), data_directory())
        config = TrainConfig(
            model=str(model_directory()),
            output=f"{folder}/out",
            task=TASKS[task].kind,
            seed=seed,
            epochs=3,
            max_length=128,
            **parts,
        )
        made_on = train(config, print).made_on
        found = judge(config.run.output, parts["test"], draws=10)
        assert isinstance(found, Found)
        told = found.evaluation
        kept = {str(precision): rejected(config.run.output, found, precision) for precision in PRECISIONS}
        return {
            "task": task, "seed": seed, "items": told.items, "temperature": told.temperature, "before": told.uncalibrated_error,
            "after": told.calibration_error, "kept": kept, "made_on": made_on,
        }  # fmt: skip


def rejected(folder: str, found: Found, precision: float) -> list[float] | None:
    """The parts of the test texts that keep their label, and of these that are right; None where no threshold gives that."""
    from clm_kernels.finetune import Classifier

    if found.judged.per_word:
        return None
    try:
        threshold = Classifier.load(folder).calibration.threshold(precision).threshold
    except ValueError:
        return None
    stays = found.probabilities.max(-1) >= threshold
    right = (found.judged.predicted == found.judged.gold)[stays]
    return [float(stays.mean()), float(right.mean()) if len(right) else 0.0]


def table(cells: list[dict[str, Any]]) -> str:
    """A line for each task, and the mean of them."""
    lines = ["| task | temperature | error before | after | `--reject 0.9` | `--reject 0.95` |", "|---|---|---|---|---|---|"]
    for cell in cells:
        kept = [
            f"{part:.1%}, {right:.1%}".replace("%", " %") if part is not None else ""
            for part, right in map(pair, cell["kept"].values())
        ]
        lines.append(
            f"| {cell['task']} | {cell['temperature']:.2f} | {cell['before']:.3f} | {cell['after']:.3f} | {' | '.join(kept)} |"
        )
    before, after = (mean(cell[name] for cell in cells) for name in ("before", "after"))
    return "\n".join([*lines, f"| mean | | {before:.3f} | {after:.3f} | | |"])


def pair(kept: list[float] | None) -> tuple[float | None, float | None]:
    return (kept[0], kept[1]) if kept else (None, None)


def read(file: Path) -> list[dict[str, Any]]:
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return [json.loads(line) for line in lines if line.strip()]


if __name__ == "__main__":
    main()
