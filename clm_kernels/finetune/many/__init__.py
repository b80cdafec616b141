"""Runs of several: seeds, and a search for options. Each is a run of `train` in a folder of its own; the best one is kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..artifacts import RUN

if TYPE_CHECKING:
    from ..config import TrainConfig
    from ..report import Report

    Say = Callable[[str], None]
    Train = Callable[[TrainConfig, Say], Report]


def many(config: TrainConfig) -> Callable[[TrainConfig, Say, Train], Report] | None:
    """What makes the several runs that a config asks for, or the one that it resumes did; None for a single run."""
    from ..outputs import recorded_config

    record = Path(config.run.output) / RUN
    run = recorded_config(record.parent).run if config.run.resume and record.is_file() else config.run
    if run.search or config.run.search:
        from .search import train_search

        return train_search
    if run.seeds > 1 or config.run.seeds > 1:
        from .seeds import train_seeds

        return train_seeds
    return None
