"""What a learned mix of all layers is worth to a head that is trained alone: eight tasks, with and without, through `train`.

    python -m benchmarks.mixing --output benchmarks/results/mixing

Learning rates are chosen by the validation score of the first seed. What the frozen base model gives for a task's texts is
kept between its runs, which is all that differs from so many calls of `clm-kernels train --method head`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import mean
from typing import Any
from unittest.mock import patch

import datasets
import torch
import transformers

from clm_kernels.demo import model_directory
from clm_kernels.finetune import TrainConfig, train
from clm_kernels.models import keeping
from clm_kernels.models.kept import Rows

from .tasks.tasks import TASKS, Task, data_directory, write_parts

RATES, SEEDS = (1e-3, 3e-3, 1e-2, 3e-2), (1, 2, 3)
SIZES = {"train": 500, "validation": 400, "test": 1000}
LINES = "cells.jsonl"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--table", action="store_true", help="print the table of what is there, and run nothing")
    asked = parser.parse_args()
    if not asked.table:
        datasets.disable_progress_bars()
        transformers.utils.logging.set_verbosity_error()
        torch.set_num_threads(1)
        asked.output.mkdir(parents=True, exist_ok=True)
        for name in asked.tasks.split(","):
            run_task(TASKS[name], asked.output / LINES)
    print(table(read(asked.output / LINES)))


def run_task(task: Task, file: Path) -> None:
    done = {key_of(cell): cell for cell in read(file)}
    with tempfile.TemporaryDirectory() as folder:
        parts = write_parts(task, SIZES, Path(folder) / "data", data_directory())
        for mixed in (False, True):
            with kept_between_runs():
                for seed in SEEDS:
                    tuned = [
                        cell
                        for cell in done.values()
                        if (cell["task"], cell["mixed"], cell["seed"]) == (task.name, mixed, SEEDS[0])
                    ]
                    rates = RATES if seed == SEEDS[0] else [best_rate(tuned)]
                    for rate in rates:
                        if (task.name, mixed, seed, rate) not in done:
                            cell = run(task, parts, mixed, seed, rate, Path(folder) / f"{mixed}-{seed}-{rate}")
                            done[key_of(cell)] = cell
                            with file.open("a", encoding="utf-8") as lines:
                                lines.write(json.dumps(cell) + "\n")


def run(task: Task, parts: dict[str, str], mixed: bool, seed: int, rate: float, output: Path) -> dict[str, Any]:
    config = TrainConfig(
        model=str(model_directory()), output=str(output), task=task.kind, best_by=task.score, method="head", mix_layers=mixed,
        seed=seed, learning_rate=rate, epochs=3, batch_size=16, max_length=128, **parts,
    )  # fmt: skip
    report = train(config, print)
    return {
        "task": task.name, "mixed": mixed, "seed": seed, "learning_rate": rate, "score": task.score,
        "validation": report.best[task.score], "test": report.test[task.score], "made_on": report.made_on,
    }  # fmt: skip


@contextmanager
def kept_between_runs() -> Iterator[None]:
    rows = Rows(4e9)
    with patch.object(keeping, "Rows", lambda max_bytes: rows):
        yield


def key_of(cell: dict[str, Any]) -> tuple[str, bool, int, float]:
    return cell["task"], cell["mixed"], cell["seed"], cell["learning_rate"]


def best_rate(tuned: list[dict[str, Any]]) -> float:
    return max(tuned, key=lambda cell: cell["validation"])["learning_rate"]


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []


def table(cells: list[dict[str, Any]]) -> str:
    lines = ["| task | last layer | rate | mix | rate | gain, by seed |", "|---|---|---|---|---|---|"]
    gains = []
    for name in TASKS:
        found = []
        for mixed in (False, True):
            own = [cell for cell in cells if (cell["task"], cell["mixed"]) == (name, mixed)]
            rate = best_rate([cell for cell in own if cell["seed"] == SEEDS[0]]) if own else None
            found.append(
                (
                    rate,
                    [
                        cell["test"] * 100
                        for seed in SEEDS
                        for cell in own
                        if (cell["seed"], cell["learning_rate"]) == (seed, rate)
                    ],
                )
            )
        if all(len(scores) == len(SEEDS) for _, scores in found):
            (rate, plain), (mix_rate, mixed) = found
            each = [b - a for a, b in zip(plain, mixed, strict=True)]
            gains.append(mean(each))
            by_seed = ", ".join(f"{gain:+.1f}" for gain in each)
            lines.append(
                f"| {name} | {mean(plain):.1f} | {rate:g} | {mean(mixed):.1f} | {mix_rate:g} | {mean(each):+.1f} ({by_seed}) |"
            )
    if gains:
        lines.append(f"| mean of {len(gains)} | | | | | {mean(gains):+.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
