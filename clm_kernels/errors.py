"""The form of every message that a user may see: function, argument, what was expected, what came."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NoReturn


def refuse(function: str, argument: str, expected: str, actual: object) -> NoReturn:
    raise ValueError(f"{function}: {argument} must be {expected}, got {actual}")


def require(condition: bool, function: str, argument: str, expected: str, actual: object) -> None:
    if not condition:
        refuse(function, argument, expected, actual)


def listed(names: Iterable[object], limit: int = 8) -> str:
    """``'a', 'b' or 'c'``; cut short after `limit`."""
    shown = [repr(name) for name in names]
    if len(shown) > limit:
        return ", ".join(shown[:limit]) + f" … ({len(shown)} in all)"
    return " or ".join(filter(None, [", ".join(shown[:-1]), *shown[-1:]]))
