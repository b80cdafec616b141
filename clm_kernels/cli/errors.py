"""What a command does when something goes wrong: one line on the standard error, and an exit code."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable

import typer

from ..extras import said_what_to_install
from .console import Console

stderr = Console(stderr=True, soft_wrap=True, highlight=False)
USER_INPUT, OTHER, INTERRUPTED = 2, 1, 130
wanted = {"traceback": False}  # set by `clm-kernels --traceback`


def guarded(command: Callable) -> Callable:
    """Turns exceptions into one line: exit code 2 for what the user gave, 1 for the rest, 130 for Ctrl-C.

    With ``clm-kernels --traceback`` they pass through.
    """

    @functools.wraps(command)
    def run(*args, **kwargs):
        try:
            with said_what_to_install(command.__name__):
                return command(*args, **kwargs)
        except KeyboardInterrupt:
            raise fail("stopped", INTERRUPTED) from None
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


def fail(message: str, code: int) -> typer.Exit:
    """Prints the message; to be raised."""
    if code != INTERRUPTED:
        stderr.print("[bold red]error:[/] ", end="")
    stderr.print(message, markup=False)
    return typer.Exit(code)


def one_line(error: Exception) -> str:
    message = " ".join(str(error).split())
    if isinstance(error, (ValueError, RuntimeError)) and message:
        return message
    return f"{type(error).__name__}: {message} (`clm-kernels --traceback …` shows where)"
