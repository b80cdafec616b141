"""``--json`` and ``--quiet``, which every command has: what it returns is told in place of what it prints."""

from __future__ import annotations

import functools
import inspect
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from ..escaping import visible

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document in place of tables.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print errors and the result's essence alone.")]


class Told(NamedTuple):
    """What a command has to tell.

    Attributes:
        document: all of it, of what JSON is made of; numbers that are not finite become null.
        essence: lines for ``--quiet``, or None where the command has printed them itself.
        code: what the program exits with.
    """

    document: Mapping[str, Any]
    essence: str | None
    code: int = 0


def telling(command: Callable[..., Told | None]) -> Callable[..., None]:
    """Gives a command the two options; one that takes `as_json` itself is told whether its document is wanted.

    With ``--json`` standard output has the document alone, and standard error what it always has. With ``--quiet`` neither
    has anything but the essence, and errors, which leave as exceptions.
    """
    signature = inspect.signature(command, eval_str=True)
    asks, prints = "as_json" in signature.parameters, getattr(command, "prints_its_essence", False)

    @functools.wraps(command)
    def run(*args: Any, as_json: bool, quiet: bool, **given: Any) -> None:
        with _silent(stdout=as_json or (quiet and not prints), stderr=quiet):
            told = command(*args, **given, **({"as_json": as_json} if asks else {}))
        if told is None:  # another process tells it
            return
        if as_json:
            print(json.dumps(_plain(told.document), indent=1, allow_nan=False))
        elif quiet and told.essence:
            print(visible(told.essence, keep="\n"))
        if told.code:
            raise typer.Exit(told.code)

    own = [parameter for name, parameter in signature.parameters.items() if name != "as_json"]
    added = {"as_json": AsJson, "quiet": Quiet}
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind) for name, kind in added.items()
    ]
    run.__signature__ = signature.replace(parameters=[*own, *options], return_annotation=None)
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *options)}
    del run.__wrapped__
    return run


def prints_its_essence(command: Callable) -> Callable:
    """Marks a command whose result may be of any length, and goes to standard output as it comes, with ``--quiet`` too."""
    command.prints_its_essence = True
    return command


class _Nowhere(io.TextIOBase):
    """Never closed, as libraries keep the stream that they find when they are imported."""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        return len(text)


@contextmanager
def _silent(stdout: bool, stderr: bool) -> Iterator[None]:
    with ExitStack() as stack:
        for wanted, redirect in ((stdout, redirect_stdout), (stderr, redirect_stderr)):
            if wanted:
                stack.enter_context(redirect(_Nowhere()))
        yield


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
