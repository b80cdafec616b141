"""Packed batches beside padded ones: seconds of an epoch of `train`. ``python -m benchmarks packing``.

Runs in turn on one thread; ratios are medians over the rounds, the first of which is not counted.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

import torch

from clm_kernels.demo import model_directory
from clm_kernels.finetune import TrainConfig, train

from .common import keep, ratio, row
from .tasks.tasks import TASKS, data_directory, write_parts

CASES = ((500, 16), (500, 64))  # texts of banking77, and of a batch
ROUNDS = 3


def main() -> list[dict[str, object]]:
    torch.set_num_threads(1)
    rows = []
    for texts, batch in CASES:
        seconds: dict[str, list[float]] = {"padded": [], "packed": []}
        for _ in range(1 + ROUNDS):
            for name, taken in seconds.items():
                taken.append(epoch(texts, batch, packing=name == "packed"))
        counted = {name: taken[1:] for name, taken in seconds.items()}
        what = f"banking77, {texts} texts in batches of {batch}, an epoch: packed / padded"
        rows.append(row(what, ratio(counted, "packed", "padded"), "not set", True, seconds=counted))
        keep("packing", rows)
    return rows


def epoch(texts: int, batch: int, packing: bool) -> float:
    """Seconds of training an epoch at `train`'s defaults, the median of two, without validation and what comes before."""
    with tempfile.TemporaryDirectory() as folder:
        parts = write_parts(TASKS["banking77"], {"train": texts, "validation": 100, "test": 100}, Path(folder), data_directory())
        config = TrainConfig(
            model=str(model_directory()),
            train=parts["train"],
            output=f"{folder}/out",
            epochs=2,
            batch_size=batch,
            packing=packing,
            seed=1,
        )
        return statistics.median(train(config, lambda _: None).seconds["epochs"])


if __name__ == "__main__":
    main()
