"""What is refused before anything is read, though tasks or transformers have to be asked for it."""

from __future__ import annotations

from transformers.integrations import integration_utils as loggers

from ..errors import listed, require
from .config import TrainConfig
from .tasks import TASKS

LABELS = ((), ("B-X",))  # a task's scores may depend on whether its labels mark spans


def check_beforehand(config: TrainConfig) -> None:
    """Raises ValueError for a score that no task has, and for a logger that is not known or not installed."""
    named, score = config.data.task, config.training.best_by
    tasks = [TASKS[name] for name in TASKS if named in ("auto", name)]
    scores = sorted({known for task in tasks for labels in LABELS for known in task.scores(labels)})
    require(score in ("auto", *scores), "train", "best_by", f"auto, {listed(scores)}", repr(score))
    asked = config.run.report_to
    every = sorted(loggers.INTEGRATION_TO_CALLBACK)
    for name in () if asked in ("none", "all") else asked.split(","):
        require(name in every, "train", "report_to", f"none, all, or of {', '.join(every)}, divided by commas", repr(asked))
        there = loggers.get_available_reporting_integrations()
        found = (
            f"one that is installed, of which there are {listed(sorted(there))}" if there else "none, as no logger is installed"
        )
        require(name in there, "train", "report_to", found, repr(asked))
