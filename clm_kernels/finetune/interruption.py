"""Ctrl-C, SIGTERM and SIGHUP in a run: the first becomes a checkpoint after the running step, the second a stop at once."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback

HANGUP = getattr(signal, "SIGHUP", None)  # Windows has none
PREEMPTING = (signal.SIGTERM, *([HANGUP] if HANGUP else []))
ECHO = 1.0  # seconds in which a signal counts once: a launcher or a shell passes on what the process has had already


class Interrupted(KeyboardInterrupt):
    """A run was ended by a signal; by convention a program then exits with ``128 + number``."""

    def __init__(self, number: int):
        super().__init__()
        self.number = number


class Signals:
    """Which signals have come, echoes aside."""

    def __init__(self) -> None:
        self.number, self.at = 0, 0.0

    def is_echo(self, number: int) -> bool:
        """Whether the last one comes again; two Ctrl-C at a terminal are two."""
        now, before = time.monotonic(), self.at
        same = number == self.number and (number != signal.SIGINT or "RANK" in os.environ)
        self.number, self.at = number, now
        return same and now - before < ECHO


@contextmanager
def tidied_up_after() -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP raise `Interrupted`, as Ctrl-C raises KeyboardInterrupt: what has been begun is taken away."""
    signals = Signals()

    def stop(number, frame):
        if not signals.is_echo(number):
            raise Interrupted(number)

    with _handled_by(stop, PREEMPTING):
        yield


@contextmanager
def _handled_by(handler: Callable[..., None], numbers: Iterable[int]) -> Iterator[None]:
    """Leaves signals alone that the program ignores, as under nohup, or handles itself; Ctrl-C apart.

    Outside of the main thread nothing changes: whoever runs it there handles signals.
    """
    former: dict[int, Any] = {}
    with suppress(ValueError):
        for number in numbers:
            found = signal.getsignal(number)
            ours = getattr(found, "__module__", None) == __name__
            if number == signal.SIGINT or found == signal.SIG_DFL or ours:
                former[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, found in former.items():
            signal.signal(number, found)


@contextmanager
def unstoppable() -> Iterator[None]:
    """Inside, no signal that can be caught stops the process: for some seconds in which it says its last word."""
    with _handled_by(lambda number, frame: None, (signal.SIGINT, *PREEMPTING)):
        yield


class Interruption(TrainerCallback):
    """In this context a first signal is kept until a checkpoint is made, which all processes do after the same step."""

    def __init__(self, say: Callable[[str], None]):
        self.say, self.asked, self.agreed = say, 0, 0
        self.signals = Signals()
        self.handling = _handled_by(self._ask, (signal.SIGINT, *PREEMPTING))

    def __enter__(self) -> Interruption:
        self.handling.__enter__()
        return self

    def __exit__(self, error, *rest) -> None:
        self.handling.__exit__(None, None, None)
        if self.asked and error is None:
            raise Interrupted(self.asked)

    def _ask(self, number, frame) -> None:
        echo = self.signals.is_echo(number)
        if self.asked and not echo:
            raise Interrupted(number)
        if not self.asked:
            self.asked = number
            again = "press Ctrl-C again" if number == signal.SIGINT else f"send {signal.Signals(number).name} again"
            _tell(self.say, f"stopping after this step, with a checkpoint; {again} to stop at once", number)

    def on_step_end(self, args, state, control, **kwargs):
        ends_epoch = args.save_strategy == "epoch" and float(state.epoch).is_integer()
        if self._all_stop(args.device) and not ends_epoch:  # at its end, the epoch is first validated and then saved anyway
            control.should_save = True

    def on_save(self, args, state, control, **kwargs):
        if self._all_stop(args.device):
            raise Interrupted(self.agreed)

    def _all_stop(self, device: torch.device) -> bool:
        """Whether any process has been asked to, which all learn here: signals reach them in different steps."""
        self.agreed = self.agreed or self.asked
        if dist.is_initialized() and dist.get_world_size() > 1:
            number = torch.tensor(self.agreed, device=device)
            dist.all_reduce(number, dist.ReduceOp.MAX)
            self.agreed = int(number)
        return bool(self.agreed)


def _tell(say: Callable[[str], None], line: str, number: int) -> None:
    try:
        say(line)
    except RuntimeError:  # the signal came in the middle of another line
        pass
    except OSError:
        if number != HANGUP:
            raise
        for stream in (sys.stdout, sys.stderr):  # the terminal is gone, and each later line would fail
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
