"""What is measured: a cell of the grid, the settings that all cells share, and a JSON file for each result."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from clm_kernels.files import write_atomically

from .methods import METHODS

Result = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """What every cell of one grid shares.

    Attributes:
        model: directory of the base model; `model_id` is what identifies it on any machine.
        train_size, validation_size, test_size: examples of each part; None for all.
        options: fields of TrainConfig for all methods (density, kind, biases …).
    """

    model: str
    train_size: int | None
    validation_size: int | None
    test_size: int | None
    epochs: int
    batch_size: int = 32
    max_length: int = 128
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def model_id(self) -> str:
        folder = Path(self.model)
        digest = hashlib.sha256((folder / "config.json").read_bytes())
        for path in sorted(folder.glob("*.safetensors")):
            digest.update(str(path.stat().st_size).encode())
        return digest.hexdigest()[:8]

    def recorded(self) -> dict[str, Any]:
        """The settings as a result keeps them: without a path, which differs between machines."""
        return {**asdict(self), "model": self.model_id}


@dataclass(frozen=True)
class Cell:
    """One training run.

    Attributes:
        stage: ``"tune"`` looks for a learning rate and never sees the test data, ``"test"`` is what is reported.
    """

    task: str
    method: str
    stage: str
    seed: int
    learning_rate: float

    @property
    def label(self) -> str:
        return f"{self.task}, {METHODS[self.method].label}, {self.stage}, rate {self.learning_rate:g}, seed {self.seed}"


class Store:
    """The results of one grid's settings in a folder: a file each, named after a hash of all that shapes it."""

    def __init__(self, folder: Path, settings: Settings):
        self.folder, self.settings = folder, settings
        self._recorded = settings.recorded()
        self._results: dict[Cell, Result] = {}
        self._read: set[Path] = set()
        self.refresh()

    def path(self, cell: Cell) -> Path:
        way = METHODS[cell.method]
        made_of = {**asdict(cell), "settings": self._recorded, "options": way.options, "density_times": way.density_times}
        key = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:12]
        return self.folder / cell.task / f"{cell.method}-{cell.stage}-{cell.seed}-{cell.learning_rate:g}-{key}.json"

    def refresh(self) -> None:
        """Reads what has been stored since the last time."""
        for path in set(self.folder.glob("*/*.json")) - self._read:
            self._read.add(path)
            result = json.loads(path.read_text())
            cell = Cell(**result["cell"])
            if cell.method in METHODS and self.path(cell) == path:
                self._results[cell] = result

    def get(self, cell: Cell) -> Result | None:
        return self._results.get(cell)

    def all(self) -> list[Result]:
        """Every result of these settings."""
        return list(self._results.values())

    def put(self, cell: Cell, result: Result) -> None:
        stored = {"cell": asdict(cell), "settings": self._recorded, **result}
        write_atomically(self.path(cell), (json.dumps(stored, indent=1) + "\n").encode())
        self.refresh()

    def forget_failures(self) -> int:
        """Takes away the results of cells that could not run, so that they are tried again."""
        failed = [cell for cell, result in self._results.items() if "error" in result]
        for cell in failed:
            self.path(cell).unlink()
            self._read.discard(self.path(cell))
            del self._results[cell]
        return len(failed)
