"""What a command does when something goes wrong: one line on the standard error, and an exit code."""

from __future__ import annotations

import functools
import os
import signal
import sys
import time
from collections.abc import Callable

import typer

from ..extras import said_what_to_install
from .console import Console

stderr = Console(stderr=True, soft_wrap=True, highlight=False)
USER_INPUT, OTHER, SIGNALLED = 2, 1, 128
PATIENCE = 10.0  # seconds: processes of one launcher, all of which import torch first, come to the same refusal within these
wanted = {"traceback": False}  # set by `clm-kernels --traceback`


class Stopped(Exception):
    """Ends a command with a message and an exit code."""

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.code = code


def guarded(command: Callable) -> Callable:
    """Turns exceptions into one line: exit code 2 for what the user gave, 1 for the rest, 128 + n for signal n (Ctrl-C: 130).

    With ``clm-kernels --traceback`` they pass through.
    """

    @functools.wraps(command)
    def run(*args, **kwargs):
        try:
            with said_what_to_install(command.__name__):
                return command(*args, **kwargs)
        except KeyboardInterrupt as stop:
            raise fail("stopped", code_of(stop)) from None
        except Stopped as stop:
            raise fail(str(stop), stop.code) from None
        except BrokenPipeError:  # whoever reads our output has seen enough; let the last flush go nowhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(OTHER) from None
        except typer.Exit:
            raise
        except Exception as error:
            if wanted["traceback"]:
                raise
            raise fail(one_line(error), USER_INPUT if isinstance(error, ValueError) else OTHER) from None

    return run


def code_of(stop: KeyboardInterrupt) -> int:
    """128 and the signal's number, by convention."""
    return SIGNALLED + getattr(stop, "number", signal.SIGINT)


def fail(message: str, code: int) -> typer.Exit:
    """Prints the message; to be raised. Of several processes that refuse what was given, process 0 alone prints it."""
    if code == USER_INPUT and not is_first() and _ended_with_the_first():
        return typer.Exit(code)
    if code < SIGNALLED:
        stderr.print("[bold red]error:[/] ", end="")
    stderr.print(message, markup=False)
    return typer.Exit(code)


def is_first() -> bool:
    """Whether this is process 0 of a launcher's, or the only one."""
    return os.environ.get("RANK", "0") == "0" or os.environ.get("WORLD_SIZE", "1") == "1"


def _ended_with_the_first() -> bool:
    """Waits until the launcher ends this process, as it does once process 0 has failed; False where that goes on.

    Who left earlier would have process 0 ended before it has said anything.
    """
    ended = []
    before = signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
    until = time.monotonic() + PATIENCE
    while not ended and time.monotonic() < until:
        time.sleep(0.05)
    signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
    return bool(ended)


def one_line(error: Exception) -> str:
    message = " ".join(str(error).split())
    if isinstance(error, (ValueError, RuntimeError)) and message:
        return message
    return f"{type(error).__name__}: {message} (`clm-kernels --traceback …` shows where)"
