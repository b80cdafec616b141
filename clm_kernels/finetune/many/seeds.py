"""`--seeds`: the same run with several seeds, their mean and spread, and the best by validation."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config import TrainConfig
from ..report import Report
from ..saying import SayOnce
from .folders import finished, inner, keep, several_in
from .protocol import Say, Train

NO_SCORES = ("epoch", "step", "train_loss")


def train_seeds(config: TrainConfig, say: Say, train: Train) -> Report:
    """Trains with each seed from `Run.seed` on in the folder ``seed-N``, and keeps the one with the best validation score.

    Returns:
        The report of that one, which has all of them under `Report.seeds`.
    """
    say = SayOnce(say)
    folders = [f"seed-{config.run.seed + i}" for i in range(config.run.seeds)]
    with several_in(config, say, folders) as (whole, _):
        if not whole.data.validation:
            say(
                "no validation data is given: each seed holds back another part of train, so the best is chosen on different texts"
            )
        first, count = whole.run.seed, whole.run.seeds
        reports = {}
        for seed in range(first, first + count):
            say(f"seed {seed}, {seed - first + 1} of {count}")
            reports[seed] = finished(inner(whole, f"seed-{seed}", seed=seed), say, train)
        best = best_of(reports)
        report = reports[best]
        report.seeds = told(reports, best)
        keep(Path(whole.run.output) / f"seed-{best}", report, seed=first, seeds=count, output=whole.run.output)
    return report


def best_of(reports: Mapping[int, Report]) -> int:
    """The seed with the best score on the validation data, of equal ones the first."""
    return max(reports, key=lambda seed: reports[seed].best[reports[seed].best_by])


def told(reports: Mapping[int, Report], best: int) -> dict[str, Any]:
    """What `Report.seeds` has."""
    runs = [
        {"seed": seed, "folder": f"seed-{seed}", "validation": scores(one.best), "test": one.test}
        for seed, one in reports.items()
    ]
    parts = ["validation", *(["test"] if all(run["test"] for run in runs) else [])]
    values = {part: {name: [run[part][name] for run in runs] for name in runs[0][part]} for part in parts}
    return {
        "best": best,
        "runs": runs,
        "mean": {part: {name: statistics.fmean(each) for name, each in found.items()} for part, found in values.items()},
        "sd": {part: {name: statistics.stdev(each) for name, each in found.items()} for part, found in values.items()},
    }


def scores(line: Mapping[str, float]) -> dict[str, float]:
    """Of a validation, without what is no score."""
    return {name: value for name, value in line.items() if name not in NO_SCORES}
