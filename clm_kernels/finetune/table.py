"""A table of names whose entries are imported when they are first asked for: the names alone cost no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, TypeVar

T = TypeVar("T")


class Table(Mapping[str, T]):
    """name -> the one object of a class in a module of `package`.

    Args:
        package: where the modules stand.
        homes: name -> ``"module:Class"``.
    """

    def __init__(self, package: str, homes: Mapping[str, str]):
        self._package, self._homes = package, dict(homes)
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> T:
        if name not in self._made:
            module, _, kind = self._homes[name].partition(":")
            self._made[name] = getattr(import_module(f"{self._package}.{module}"), kind)(name)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._homes)

    def __len__(self) -> int:
        return len(self._homes)
