"""What is learnt: a file a task. To add one: write it beside `base`, and name it here."""

from ..table import Table
from .base import Task

TASKS: Table[Task] = Table(__name__, {"sequence": "sequence:SequenceClassification", "token": "token:TokenClassification"})
