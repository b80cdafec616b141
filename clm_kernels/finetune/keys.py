"""Options by the keys that a run file and ``--set`` have for them: ``training.epochs``."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, get_args, get_type_hints

from .. import strangers
from ..errors import refuse, require
from .config import OPTIONS, PARTS

KEYS = {f"{part}.{name}": name for name, part in OPTIONS.items()}
NONE = ("null", "~", "")
TRUTH = {"true": True, "false": False}
NAMED = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def parse_settings(settings: Iterable[str]) -> dict[str, Any]:
    """Options from ``key=value``, a later one of a key before an earlier.

    Raises:
        ValueError: for a key that there is not (names the nearest one), or a value that is not of its type.
    """
    found = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        require(bool(equals), "train", "set", "key=value, as training.epochs=3", strangers.brief(setting))
        check_names([key], "set")
        found[KEYS[key]] = typed(KEYS[key], value, f"set {key}")
    return found


def check_names(keys: Iterable[str], where: str) -> None:
    """Raises ValueError for the first key that there is not."""
    for key in keys:
        require(key in KEYS, "train", where, f"one of known keys ({nearest(key)})", strangers.brief(key))


def nearest(key: str) -> str:
    """What is likely meant by a key that there is not."""
    name = key.rpartition(".")[2][:100].replace("-", "_")
    close = get_close_matches(key[:100], [*KEYS, *PARTS], 1) if name not in OPTIONS else [f"{OPTIONS[name]}.{name}"]
    same = close or [f"{OPTIONS[other]}.{other}" for other in get_close_matches(name, OPTIONS, 1)]
    return f"the nearest is {same[0]}" if same else f"which begin with {', '.join(PARTS)}"


def typed(name: str, text: str, where: str) -> Any:
    """A value as an option's field has it.

    Raises:
        ValueError: for a text that says no such value.
    """
    hint = get_type_hints(PARTS[OPTIONS[name]])[name]
    kinds = get_args(hint) or (hint,)
    if type(None) in kinds and text.lower() in NONE:
        return None
    (kind,) = (kind for kind in kinds if kind is not type(None))
    if kind is float and text.isdecimal():
        kind = int  # as it is written in Python
    try:
        return TRUTH[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError):
        refuse("train", where, NAMED[kind], strangers.brief(text))
