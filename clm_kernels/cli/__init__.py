"""The command line: ``clm-kernels check | train | predict | evaluate | export | select | tokens | doctor | demo | bench | profile | estimate | serve``."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from .._version import __version__
from . import bench, check, demo, doctor, estimate, evaluate, export, predict, profile, serve, tokens, train
from .errors import guarded, wanted
from .told import telling

__all__ = ["app", "main"]

app = typer.Typer(
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
    app.command()(guarded(telling(command)))


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
