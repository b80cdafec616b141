"""What a run says of its data before it begins."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from .checking.checked import check_corpus
from .checking.shown import left_out_line, one_line
from .outputs import is_main

if TYPE_CHECKING:
    from .data import Corpus
    from .encode import Encoded
    from .tasks import Task

Say = Callable[[str], None]


def say_data(corpus: Corpus, say: Say) -> None:
    """Says what was left out, and the worst of what `check` finds in the rest: a line each."""
    if is_main():
        for line in filter(None, (left_out_line(corpus.record), one_line(check_corpus(corpus)))):
            say(line)


def say_cuts(splits: Mapping[str, Encoded], task: Task, limit: int, by: str, say: Say) -> None:
    """Says of each part how much of it does not fit into so many tokens; `by` names what sets the limit."""
    for name, split in splits.items():
        if split.cut:
            counted = "; cut-off words count as missed" if task.per_token and name != "train" else ""
            say(f"{name}: {split.cut:,} {task.unit} cut off at {limit} tokens{counted} ({by} sets the limit)")
