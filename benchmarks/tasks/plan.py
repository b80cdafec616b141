"""What to run next: learning rates first, then a seed of every method and task, then more seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from .methods import LADDER, METHODS
from .store import Cell, Store
from .tasks import TASKS


def middle(ladder: Sequence[float]) -> Sequence[float]:
    """The four to start with."""
    return ladder[len(ladder) // 2 - 2 : len(ladder) // 2 + 2]


START = middle(LADDER)


def next_rates(scores: Mapping[float, float], ladder: Sequence[float] = LADDER) -> list[float]:
    """The rates to try, given the validation score of those tried: first the middle, then on while the best is at an edge.

    The same rule for every method: full fine-tuning climbs down from it, prefix tuning up.
    """
    if missing := [rate for rate in middle(ladder) if rate not in scores]:
        return missing
    best = best_rate(scores)
    place = ladder.index(best)
    edges = {min(scores): place - 1, max(scores): place + 1}
    beyond = edges.get(best, -1)
    return [ladder[beyond]] if 0 <= beyond < len(ladder) else []


def best_rate(scores: Mapping[float, float]) -> float:
    """The rate with the best score; among equals the lowest."""
    return min(scores, key=lambda rate: (-scores[rate], rate))


@dataclass(frozen=True)
class Plan:
    """The grid.

    Attributes:
        seeds, headline_seeds: how many seeds a method gets, and one of the headline.
        tune_on: the tasks whose validation data choose a method's rate, for all tasks of their kind; None: each task its own.
    """

    tasks: list[str]
    methods: list[str]
    seeds: int
    headline_seeds: int
    tune_on: list[str] | None

    def __post_init__(self) -> None:
        for name in [*self.tasks, *(self.tune_on or [])]:
            if name not in TASKS:
                raise ValueError(f"tasks: tasks must be among {', '.join(TASKS)}, got {name!r}")
        for name in self.tasks:
            if not self.tuners(name):
                raise ValueError(f"tasks: tune_on must hold a {TASKS[name].kind} task to tune {name} on, got {self.tune_on}")

    def tuners(self, task: str) -> list[str]:
        """The tasks that choose the learning rates for this one."""
        return [task] if self.tune_on is None else [name for name in self.tune_on if TASKS[name].kind == TASKS[task].kind]

    def rates(self, task: str, method: str, store: Store) -> tuple[float | None, list[Cell], list[Cell]]:
        """The chosen rate (None if it is still open, or nothing could run), the tuning cells done, and those to run next."""
        method = METHODS[method].rates_of or method
        ladder = METHODS[method].ladder
        if len(ladder) == 1:
            return ladder[0], [], []
        tried: dict[float, list[Cell]] = {}
        for rate in ladder:
            cells = [Cell(tuner, method, "tune", store.settings.first_seed - 1, rate) for tuner in self.tuners(task)]
            if any(store.get(cell) for cell in cells):
                tried[rate] = cells
        done = [cell for cells in tried.values() for cell in cells if store.get(cell)]
        scores = {rate: self._score(cells, store) for rate, cells in tried.items() if all(map(store.get, cells))}
        if scores and all(score == float("-inf") for score in scores.values()):
            return None, done, []  # it cannot run: one failure says so
        cells = [
            Cell(tuner, method, "tune", store.settings.first_seed - 1, rate)
            for rate in next_rates(scores, ladder)
            for tuner in self.tuners(task)
        ]
        cells = [cell for cell in cells if not store.get(cell)]
        return (best_rate(scores) if scores and not cells else None), done, cells

    @staticmethod
    def _score(cells: list[Cell], store: Store) -> float:
        results = [store.get(cell) for cell in cells]
        return float("-inf") if any("error" in result for result in results) else mean(r["validation"] for r in results)

    def cells(self, store: Store) -> Iterator[tuple[Cell | None, bool]]:
        """Every cell known so far, with whether it is done, in the order of running; None for one whose rate is open."""
        rates = {(task, method): self.rates(task, method, store) for task in self.tasks for method in self.methods}
        tuned: set[Cell] = set()
        for number in range(max(self.seeds, self.headline_seeds)):
            for task in self.tasks:
                for method in self.methods:
                    way = METHODS[method]
                    rate, done, open_cells = rates[task, method]
                    if TASKS[task].kind not in way.kinds:
                        continue
                    for cell in [*done, *open_cells]:
                        if cell not in tuned:
                            tuned.add(cell)
                            yield cell, cell in done
                    if number >= (self.headline_seeds if way.headline else self.seeds):
                        continue
                    if rate is not None:
                        cell = Cell(task, method, "test", store.settings.first_seed + number, rate)
                        yield cell, store.get(cell) is not None
                    elif open_cells:
                        yield None, False
