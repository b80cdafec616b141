"""What alters a model returns a handle: `restore` undoes it, and so does the end of a ``with`` block."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Self


class Restorable:
    """A handle on something that has been done to a model.

    A second `restore` changes nothing, so that one may stand inside a ``with`` block; after one that raised, it tries again.
    Handles on the same model are restored last in, first out: each puts back what it found.
    """

    _restored = False

    def restore(self) -> None:
        """Undoes it: classes, hooks, config, `requires_grad` and frozen weights are as before. What was trained stays."""
        if not self._restored:
            self._undo()
            self._restored = True

    def _undo(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.restore()


class Undo(Restorable):
    """A handle made of the calls that undo.

    Attributes:
        model: what was altered.
        calls: each takes the model, the last one first. They hold no model themselves, for those who must not keep it alive.
    """

    def __init__(self, model: Any, *calls: Callable[[Any], object]):
        self.model, self.calls = model, calls

    def _undo(self) -> None:
        with ExitStack() as last_first:
            for call in self.calls:
                last_first.callback(call, self.model)
