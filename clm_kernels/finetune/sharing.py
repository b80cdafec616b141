"""`Shared`: what several runs on one base do once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import Tensor

from ..models.folders import read_model, read_tensors_of
from ..models.keeping import Last


class Shared:
    """The base's weights as they were read, of which each run has a copy, and what frozen layers gave for the last run's texts.

    No run ever writes into what is kept here, so that each begins with the same bits, whatever became of the one before.

    Attributes:
        last: for `Keeping.fill`.
    """

    def __init__(self) -> None:
        self.last = Last()
        self._files: list[Any] = []
        self._tensors: dict[str, Tensor] = {}

    def read_model(self, auto_class: Any, folder: str | os.PathLike, config: Any, dtype: str) -> tuple[Any, dict[str, Any]]:
        """As `read_model`; of one folder whose files stay as they are, they are read once."""
        files = [str(folder), *_marks(Path(folder))]
        if files != self._files:
            self._tensors, self._files = read_tensors_of(folder), files
        return read_model(auto_class, folder, config, dtype, self._tensors)


def _marks(folder: Path) -> list[tuple[int, int, int]]:
    """What tells that the weights on disk are those of before."""
    states = [path.stat() for path in sorted(folder.glob("*.safetensors"))]
    return [(state.st_ino, state.st_mtime_ns, state.st_size) for state in states]
