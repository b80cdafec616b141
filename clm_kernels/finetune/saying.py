"""How a run says a line, and what it says of the data before it begins."""

from __future__ import annotations

import sys
from collections.abc import Callable

from tqdm.auto import tqdm

from ..escaping import visible
from .checking.checked import check_corpus
from .checking.shown import left_out_line, one_line
from .data import Corpus
from .encode import Encoded
from .outputs import is_main
from .tasks import Task

Say = Callable[[str], None]


def to_stderr(line: str) -> None:
    """Prints a line without breaking a progress bar."""
    tqdm.write(visible(line), file=sys.stderr)


def say_nothing(line: str) -> None:
    """In place of `to_stderr` where process 0 says it already."""


class SayOnce:
    """What several runs on the same data and machine say: each kind of line about these once."""

    def __init__(self, say: Say):
        self.say, self.kinds = say, set[str]()

    def __call__(self, line: str) -> None:
        self.say(line)

    def once(self, kind: str, line: str) -> None:
        if kind not in self.kinds:
            self.say(line)
        self.kinds.add(kind)


def say_once(say: Say, kind: str, line: str) -> None:
    """Says a line that all of several runs would say alike, where there are several once."""
    say.once(kind, line) if isinstance(say, SayOnce) else say(line)


def say_data(corpus: Corpus, say: Say) -> None:
    """Says what was left out, and the worst of what `check` finds in the rest: a line each."""
    if is_main():
        for kind, line in (("rows", left_out_line(corpus.record)), ("found", one_line(check_corpus(corpus)))):
            if line:
                say_once(say, kind, line)


def say_cuts(splits: dict[str, Encoded], task: Task, limit: int, by: str, say: Say) -> None:
    """Says of each split how much of it was cut off, or is read in windows, and by what."""
    for name, split in splits.items():
        if windows := split.windows:
            say(
                f"{name}: {windows.long:,} texts beyond {limit} tokens are read in {windows.of_long:,} windows ({by} sets the limit)"
            )
        if split.cut:
            counted = "; cut-off words count as missed" if task.per_token and name != "train" else ""
            line = f"{name}: {split.cut:,} {task.unit} cut off at {limit} tokens{counted} ({by} sets the limit)"
            say_once(say, name, line)
