"""What is measured: a cell of the grid, the settings that all cells share, and a line of JSON for each result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from clm_kernels.files import write_atomically

from .methods import METHODS

Result = dict[str, Any]
FRESH_SEED = 101
FORMER = {"backward": "cost"}  # options by the names that they had when results were first stored


@dataclass(frozen=True)
class Settings:
    """What every cell of one grid shares.

    Attributes:
        model: directory of the base model; `model_id` is what identifies it on any machine.
        train_size, validation_size, test_size: examples of each part; None for all.
        options: fields of TrainConfig for all methods (density, kind, biases …).
        tune_size: examples of train that learning rates are tuned with; None for as many as are trained on.
        fresh: whether rows that no choice has seen are taken, other ones to train on for each seed, and other seeds.
    """

    model: str
    train_size: int | None
    validation_size: int | None
    test_size: int | None
    epochs: int
    batch_size: int = 32
    max_length: int = 128
    options: dict[str, Any] = field(default_factory=dict)
    tune_size: int | None = None
    fresh: bool = False

    @property
    def first_seed(self) -> int:
        """Of those that are reported; the one before it tunes the learning rates."""
        return FRESH_SEED if self.fresh else 1

    def at(self, stage: str) -> Settings:
        """The settings of the cells of a stage; those that tune are shared by all grids that tune alike."""
        if stage == "tune" and self.tune_size is not None:
            return replace(self, train_size=self.tune_size, tune_size=None)
        return self

    @property
    def model_id(self) -> str:
        folder = Path(self.model)
        digest = hashlib.sha256((folder / "config.json").read_bytes())
        for path in sorted(folder.glob("*.safetensors")):
            digest.update(str(path.stat().st_size).encode())
        return digest.hexdigest()[:8]

    def recorded(self) -> dict[str, Any]:
        """The settings as a result keeps them: without a path, which differs between machines."""
        kept = {name: value for name, value in asdict(self).items() if name not in ("tune_size", "fresh") or value}
        return {**kept, "model": self.model_id}


@dataclass(frozen=True)
class Cell:
    """One training run.

    Attributes:
        stage: ``"tune"`` looks for a learning rate and never sees the test data, ``"test"`` is what is reported.
        learning_rate: or what the method has in its place (`Way.tuned`).
    """

    task: str
    method: str
    stage: str
    seed: int
    learning_rate: float

    @property
    def label(self) -> str:
        way = METHODS[self.method]
        return f"{self.task}, {way.label}, {self.stage}, {way.tuned} {self.learning_rate:g}, seed {self.seed}"


class Store:
    """The results of one grid's settings, each a line of ``cells.jsonl`` with a key made from all that shapes it.

    Several processes may put lines at a time; `drop` is for when none does.
    """

    def __init__(self, folder: Path, settings: Settings):
        self.folder, self.settings, self.file = folder, settings, folder / "cells.jsonl"
        self._recorded = {stage: settings.at(stage).recorded() for stage in ("tune", "test")}
        self._results: dict[Cell, Result] = {}
        self._read = 0
        self.refresh()

    def key(self, cell: Cell) -> str:
        way = METHODS[cell.method]
        made_of = {
            **asdict(cell),
            "settings": self._recorded[cell.stage],
            "options": {FORMER.get(name, name): value for name, value in way.options.items()},
            "density_times": way.density_times,
            **way.given,
        }
        return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:12]

    def refresh(self) -> None:
        """Reads what has been stored since the last time."""
        if not self.file.exists():
            return
        with self.file.open("rb") as file:
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):  # being written
                    break
                self._read += len(line)
                if (cell := self._cell(line)) is not None:
                    self._results[cell] = json.loads(line)

    def _cell(self, line: bytes) -> Cell | None:
        """The cell that a line belongs to; None if it is not of these settings, or was cut off in a crash."""
        try:
            result = json.loads(line)
            cell = Cell(**result["cell"])
        except (ValueError, KeyError, TypeError):
            return None
        return cell if cell.method in METHODS and self.key(cell) == result["key"] else None

    def get(self, cell: Cell) -> Result | None:
        return self._results.get(cell)

    def all(self) -> list[Result]:
        """Every result of these settings."""
        return list(self._results.values())

    def put(self, cell: Cell, result: Result) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        stored = {"key": self.key(cell), "cell": asdict(cell), "settings": self._recorded[cell.stage], **result}
        with self.file.open("ab", buffering=0) as file:  # one call, so that lines of two processes do not mix
            file.write((json.dumps(stored) + "\n").encode())
        self.refresh()

    def drop(self, cells: Collection[Cell]) -> None:
        """Forgets the results of these cells."""
        kept = [line for line in self.file.read_bytes().splitlines(keepends=True) if self._cell(line) not in cells]
        write_atomically(self.file, b"".join(kept))
        self._results, self._read = {}, 0
        self.refresh()

    def forget_failures(self) -> int:
        """Drops the cells that could not run, so that they are tried again."""
        failed = {cell for cell, result in self._results.items() if "error" in result}
        if failed:
            self.drop(failed)
        return len(failed)
