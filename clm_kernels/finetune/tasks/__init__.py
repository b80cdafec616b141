"""What is learnt: a file a task. To add one: write it beside `base`, and name it in `finetune.names`."""

from .. import names
from ..table import Table
from .base import Task

__all__ = ["TASKS", "Task"]

TASKS: Table[Task] = Table(__name__, names.TASKS)
