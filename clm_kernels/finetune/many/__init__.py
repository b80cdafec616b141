"""Runs of several: seeds, and a search for options. Each is a run of `train` in a folder of its own; the best one is kept."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ..artifacts import RUN
from ..config import TrainConfig
from ..outputs import recorded_config
from ..report import Report
from .protocol import Say, Train
from .search import train_search
from .seeds import train_seeds


def several_runs(config: TrainConfig) -> Callable[[TrainConfig, Say, Train], Report] | None:
    """What makes the several runs that a config asks for, or the one that it resumes did; None for a single run."""
    record, before = Path(config.run.output) / RUN, config.run
    if before.resume and record.is_file():
        with suppress(ValueError):  # of a record that is damaged, which is said where a run goes on
            before = recorded_config(record.parent).run
    if config.run.search or before.search:
        return train_search
    return train_seeds if max(config.run.seeds, before.seeds) > 1 else None
