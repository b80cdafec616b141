"""The command line, run in this process."""

import needs_datasets  # noqa: F401
from typer.testing import CliRunner

from clm_kernels.cli import app


def run(*arguments, input=None):
    """The command line in this process: exit code, standard output, standard error."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=input)
