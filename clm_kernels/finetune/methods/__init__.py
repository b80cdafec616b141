"""What is trained: a file a method. To add one: write it beside `base`, and name it in `finetune.names`."""

from __future__ import annotations

from .. import names
from ..config import REQUIRED, TrainConfig
from ..table import Table
from ..tasks import Task
from .base import Method, Prepared

__all__ = ["METHODS", "Method", "Prepared", "check", "method_of", "resolved"]

METHODS: Table[Method] = Table(__name__, names.METHODS)


def method_of(config: TrainConfig) -> Method:
    """The method that a config asks for."""
    return METHODS[config.training.method]


def resolved(config: TrainConfig, task: Task) -> TrainConfig:
    """The same config with what ``auto`` and the defaults stand for in a task; the evidence is in benchmarks/tasks/NOTES.md."""
    return method_of(config).resolved(config, task)


def check(config: TrainConfig, required: tuple[str, ...] = REQUIRED) -> None:
    """Raises ValueError, one line, for the first field that cannot be right, by itself or for the method."""
    config.check(required)
    method_of(config).check(config)
