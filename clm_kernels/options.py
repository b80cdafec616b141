"""Fields of a config: each has a default, a group, a help text and perhaps choices, from which the command line is made."""

from __future__ import annotations

from dataclasses import field, fields
from typing import Any

from .errors import listed, require

MOST = 2**31 - 1


def option(group: str, default: Any, help: str, choices: tuple[str, ...] = ()) -> Any:
    """A dataclass field that is an option too."""
    return field(default=default, metadata={"group": group, "help": help, "choices": choices})


def check_choices(part: Any, function: str = "train") -> None:
    """Raises ValueError for the first field whose value is none of its choices."""
    for spec in fields(part):
        if choices := spec.metadata["choices"]:
            value = getattr(part, spec.name)
            require(value in choices, function, spec.name, listed(choices), repr(value))


def check_counts(part: Any, *names: str, function: str = "train") -> None:
    """Raises ValueError for the first of these fields that is below 1, or beyond what a tensor's size can be; None is left alone."""
    for name in names:
        value = getattr(part, name)
        require(value is None or value >= 1, function, name, "1 or more", value)
        require(value is None or value <= MOST, function, name, f"at most {MOST}", value)
