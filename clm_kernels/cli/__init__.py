"""The command line: ``clm-kernels check | train | predict | evaluate | export | select | tokens | doctor | demo | bench | profile | estimate | serve``."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Annotated

import typer

from .._version import __version__
from . import bench, check, demo, doctor, estimate, evaluate, export, predict, profile, serve, tokens, train
from .errors import guarded, wanted
from .told import telling
from .usage import Commands

__all__ = ["app", "main"]

MORE = "clm-kernels train --help-all shows all options."


def _flowing(command: Callable) -> str:
    """What a command's docstring says, its paragraphs without their line ends, so that they fill the terminal's width."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in (command.__doc__ or "").split("\n\n"))


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    check.check, train.train, predict.predict, evaluate.evaluate, export.export, train.select, tokens.tokens, doctor.doctor,
    demo.demo, bench.bench, profile.profile, estimate.estimate,
    serve.serve,
):  # fmt: skip
    app.command(help=_flowing(command), epilog=MORE if command is train.train else None)(guarded(telling(command)))


def _version(asked: bool) -> None:
    if asked:
        print(__version__)
        raise typer.Exit


@app.callback()
def _clm_kernels(
    traceback: Annotated[bool, typer.Option("--traceback", help="Show the whole traceback of an error.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    """Fine-tune small language models into classifiers by training a small selection of their weights in place."""
    wanted["traceback"] = traceback


def main() -> None:
    """Entry point of the program `clm-kernels`."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # no warning about forks; nothing here forks
    app()
