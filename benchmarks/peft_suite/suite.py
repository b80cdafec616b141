"""PEFT's tests that are written for any method, with this package's config in place of the methods' own."""

from __future__ import annotations

import types
from typing import Any

import pytest

from . import cases, theirs

ANY = "config_cls"  # what a test of any method is parametrized by


def _values(module: str, names: str) -> list | None:
    """What takes the place of a test's own parameters of these names; None where they are its own matter."""
    words = tuple(names.replace(" ", "").split(","))
    if words == ("test_name", "model_id", ANY, "config_kwargs"):
        return [pytest.param(*case, id=case[0]) for case in cases.CUSTOM]
    if words[:2] == ("test_name", "tuner_method"):
        return [pytest.param(*case, id=case[0]) for case in cases.SEVERAL]
    if words == (ANY, "config_kwargs"):
        task = cases.OTHER_TASKS.get(module)
        return [(config, {**options, "task_type": task} if task else options) for config, options in cases.TRANSFORMERS]
    if words == (ANY,):
        return [cases.ClmConfig]
    if words == ("model_id",):
        return list(cases.folders(module))
    return None


NAMED = "they are about methods that they name"
OTHERS = {  # part of a test's name -> why it is not for us, though it takes any config
    "prompt": "they are about prompt learning",
    "default_target_modules_list_of_str": "they write into the tables of two other methods",
    "default_target_modules_str": "they write into the tables of two other methods",
}


def _why_not(name: str, function: Any) -> str | None:
    """Why a test is not run with our config."""
    marks = getattr(function, "pytestmark", [])
    if not any(mark.name == "parametrize" and ANY in mark.args[0] for mark in marks):
        return NAMED
    return next((why for part, why in OTHERS.items() if part in name), None)


def _for_ours(function: Any, module: str) -> Any:
    """The test with our parameters."""
    copied = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    copied.__kwdefaults__ = function.__kwdefaults__
    copied.pytestmark = [_replaced(mark, module) for mark in function.pytestmark]
    return copied


def _replaced(mark: Any, module: str) -> Any:
    values = _values(module, mark.args[0]) if mark.name == "parametrize" else None
    return mark if values is None else getattr(pytest.mark, mark.name)(mark.args[0], values).mark


LEFT: dict[str, dict[str, str]] = {}  # class -> its tests that are not run, and why


def _collect() -> None:
    for module in theirs.modules():
        short = module.__name__.rpartition(".")[2]
        for each in theirs.classes(module):
            tests = {name: getattr(each, name) for name in dir(each) if name.startswith("test_")}
            left = {name: why for name, function in tests.items() if (why := _why_not(name, function))}
            ours = {name: None if name in left else _for_ours(function, short) for name, function in tests.items()}
            LEFT[f"{short}.{each.__name__}"] = left
            if any(ours.values()):
                name = f"{each.__name__}_{short.removeprefix('test_')}"
                globals()[name] = type(name, (each,), ours | {"__module__": __name__})


_collect()
