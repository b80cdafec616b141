"""banking77 with all-MiniLM-L6-v2: test accuracy over three seeds, by the same `train` that the command line runs.

It takes about a quarter of an hour a method. The data lies in ``CLM_KERNELS_DATA`` or ``../shared/data``.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from pathlib import Path

from clm_kernels.demo import model_directory
from clm_kernels.finetune import TrainConfig, train

from .common import ROOT, keep, row

DATA = Path(os.environ.get("CLM_KERNELS_DATA", ROOT.parent / "shared" / "data")) / "banking77"
SEEDS = (1, 2, 3)
ENCODER_ENTRIES = 10_616_832  # the linear weights of all-MiniLM-L6-v2's six layers
HEAD_ENTRIES = 77 * (384 + 1)
METHODS = os.environ.get("CLM_KERNELS_METHODS", "sparse").split(",")


def run(method: str, seed: int) -> dict[str, object]:
    """One training run on the whole training set, with the defaults of the method."""
    with tempfile.TemporaryDirectory() as folder:
        files = {name: str(DATA / f"{name}.jsonl") for name in ("train", "validation", "test")}
        config = TrainConfig(model=str(model_directory()), output=str(Path(folder) / "run"), method=method, seed=seed, **files)
        report = train(config)
    return {
        "method": method, "seed": seed, "accuracy": report.test["accuracy"], "macro_f1": report.test["macro_f1"],
        "share": (report.trained - HEAD_ENTRIES) / ENCODER_ENTRIES, "seconds": report.seconds,
    }  # fmt: skip


def main() -> list[dict[str, object]]:
    if not DATA.is_dir():
        raise SystemExit(f"benchmarks.accuracy: needs banking77 in {DATA}; CLM_KERNELS_DATA names another place")
    rows = []
    for method in METHODS:
        runs = [run(method, seed) for seed in SEEDS]
        mean = 100 * statistics.mean(r["accuracy"] for r in runs)
        reached = method != "sparse" or (mean >= 93.0 and all(r["share"] <= 0.03 for r in runs))
        what = f"banking77, all-MiniLM-L6-v2, {method}, 5 epochs: test accuracy, mean of {len(SEEDS)} seeds"
        rows.append(row(what, mean, ">= 93.0" if method == "sparse" else "not set", reached, runs=runs))
        keep(f"accuracy_{method}", rows[-1:])
    return rows


if __name__ == "__main__":
    main()
