"""How a command line that cannot be right is refused: in a box for people, in one line for programs."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from .errors import USER_INPUT, fail, is_first

UsageError: Any = typer.BadParameter.__base__  # click's, or that of the copy which newer versions of typer bring
WITHOUT_TABLES = {"--json", "--quiet"}


class Commands(TyperGroup):
    """All commands; with ``--json`` or ``--quiet`` they refuse an option as they refuse all else, and of several processes one does."""

    def parse_args(self, context: Any, arguments: list[str]) -> list[str]:
        context.meta[__name__] = bool(WITHOUT_TABLES & set(arguments))
        return super().parse_args(context, arguments)

    def invoke(self, context: Any) -> Any:
        try:
            return super().invoke(context)
        except UsageError as error:
            if context.meta[__name__] or not is_first():
                raise fail(" ".join(error.format_message().split()), USER_INPUT) from None
            raise
