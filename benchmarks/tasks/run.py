"""Runs what is missing of a grid, each cell in a process of its own, until all is done or the time is up."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from statistics import mean

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from .cell import train_cell, work
from .plan import Plan
from .store import Cell, Settings, Store


@dataclass
class Runner:
    """Keeps `jobs` cells running.

    Attributes:
        budget: seconds after which no cell is started that is not expected to be done by then; None: no end.
        train: what a process does with its cell.
    """

    plan: Plan
    store: Store
    jobs: int = 1
    budget: float | None = None
    train: Callable[[Cell, Settings], dict] = train_cell
    running: dict[Cell, BaseProcess] = field(default_factory=dict)

    def run(self) -> bool:
        """Whether the whole grid is done now; a second call goes on where the first one stopped."""
        started, stopping = time.monotonic(), False
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with tempfile.TemporaryDirectory() as logs, Progress(*columns) as progress:
            bar = progress.add_task("")
            try:
                while True:
                    done, waiting = self._state()
                    left = self._seconds_left(waiting)
                    progress.update(
                        bar,
                        completed=done,
                        total=done + len(waiting) + len(self.running),
                        description=f"about {_clock(left)} left",
                    )
                    for cell in [cell for cell in waiting if cell is not None][: self.jobs - len(self.running)]:
                        end = time.monotonic() - started + self._expected(cell, max)
                        stopping |= self.budget is not None and end > self.budget
                        if not stopping:
                            self._start(cell, Path(logs))
                    if not self.running:
                        return not waiting
                    self._collect(Path(logs), progress.console.print)
            finally:
                for process in self.running.values():
                    process.terminate()
                for process in self.running.values():
                    process.join()

    def _state(self) -> tuple[int, list[Cell | None]]:
        cells = list(self.plan.cells(self.store))
        waiting = [cell for cell, done in cells if not done and cell not in self.running]
        return sum(done for _, done in cells), waiting

    def _start(self, cell: Cell, logs: Path) -> None:
        context = multiprocessing.get_context("forkserver")  # imports once, and parts before any thread has run
        context.set_forkserver_preload(["benchmarks.tasks.cell"])
        threads = max(1, len(os.sched_getaffinity(0)) // self.jobs)
        log = str(logs / self.store.key(cell))
        given = (cell, self.store.settings, self.store.folder, threads, log, self.train)
        self.running[cell] = context.Process(target=work, args=given, daemon=True)
        self.running[cell].start()

    def _collect(self, logs: Path, say: Callable[[str], None]) -> None:
        """Waits for a cell to end; one that died without a result gets one that says so."""
        wait([process.sentinel for process in self.running.values()])
        for cell, process in list(self.running.items()):
            if process.is_alive():
                continue
            process.join()
            del self.running[cell]
            self.store.refresh()
            if self.store.get(cell) is None:
                last = (logs / self.store.key(cell)).read_text(errors="replace").strip().splitlines()[-1:]
                self.store.put(cell, {"error": " ".join([f"its process ended with {process.exitcode}", *last])})
            say(f"{cell.label}: {outcome(self.store.get(cell))}", highlight=False)

    def _expected(self, cell: Cell, of: Callable = mean) -> float:
        """Seconds that the cell will take, going by those most like it; 0 if there are none."""
        known = [(r["cell"], r["seconds"]["whole"]) for r in self.store.all() if "error" not in r]
        same = [s for c, s in known if (c["task"], c["method"]) == (cell.task, cell.method)]
        return of(same or [s for c, s in known if c["task"] == cell.task] or [s for _, s in known] or [0.0])

    def _seconds_left(self, waiting: list[Cell | None]) -> float:
        known = [self._expected(cell) for cell in [*waiting, *self.running] if cell is not None]
        unknown = sum(cell is None for cell in waiting) * (mean(known) if known else 0.0)
        return (sum(known) + unknown) / self.jobs


def outcome(result: dict) -> str:
    if "error" in result:
        return f"cannot run: {result['error']}"
    test = f", test {100 * result['test']:.2f}" if result["test"] is not None else ""
    return f"validation {100 * result['validation']:.2f}{test}, {result['seconds']['whole']:.0f} s"


def _clock(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
