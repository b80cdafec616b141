"""From stored results to numbers: means, standard deviations, costs beside full fine-tuning's, intervals of differences."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from .methods import METHODS
from .plan import Plan
from .store import Result, Store
from .tasks import TASKS


@dataclass
class Summary:
    """The test runs of a grid that are there.

    Attributes:
        runs: (task, method) -> results in the order of their seeds.
        reasons: (task, method) -> why it could not run.
        rates: (task, method) -> the learning rate chosen on validation.
    """

    tasks: list[str]
    methods: list[str]
    runs: dict[tuple[str, str], list[Result]] = field(default_factory=dict)
    reasons: dict[tuple[str, str], str] = field(default_factory=dict)
    rates: dict[tuple[str, str], float] = field(default_factory=dict)

    def score(self, task: str, method: str) -> list[float]:
        """Test scores in percent."""
        return [100 * run["test"] for run in self.runs.get((task, method), ())]

    def shared_tasks(self, kind: str) -> list[str]:
        """The tasks of a kind that every method has run which has run any: means over these can be compared."""
        tasks = [task for task in self.tasks if TASKS[task].kind == kind]
        methods = self.of_kind(kind)
        return [task for task in tasks if methods and all((task, method) in self.runs for method in methods)]

    def of_kind(self, kind: str) -> list[str]:
        """The methods that have run some task of this kind."""
        tasks = [task for task in self.tasks if TASKS[task].kind == kind]
        return [method for method in self.methods if any((task, method) in self.runs for task in tasks)]

    def mean(self, tasks: Sequence[str], method: str) -> tuple[float, float]:
        """Means over the tasks of the mean and of the standard deviation over seeds (nan with one seed)."""
        scores = [self.score(task, method) for task in tasks]
        return statistics.mean(map(statistics.mean, scores)), statistics.mean(map(deviation, scores))

    def beside_full(self, method: str, number) -> float | None:
        """Geometric mean over tasks of a cost divided by full fine-tuning's; `number` takes it from a result, if it is there."""
        pairs = []
        for task in self.tasks:
            both = [[n for n in map(number, self.runs.get((task, name), ())) if n is not None] for name in (method, "full")]
            if all(both):
                pairs.append(statistics.mean(both[0]) / statistics.mean(both[1]))
        return statistics.geometric_mean(pairs) if pairs else None

    def steps_to_full(self, method: str) -> list[float | None]:
        """Of each run, the steps after which it first validated at full fine-tuning's best score (mean over seeds) or more."""
        found = []
        for task in self.tasks:
            if (task, "full") in self.runs:
                goal = statistics.mean(run["validation"] for run in self.runs[task, "full"])
                for run in self.runs.get((task, method), ()):
                    found.append(next((line["step"] for line in run["history"] if line["validation"] >= goal), None))
        return found


def summarise(store: Store, plan: Plan) -> Summary:
    summary = Summary(plan.tasks, plan.methods)
    for task in plan.tasks:
        for method in plan.methods:
            way = METHODS[method]
            if TASKS[task].kind not in way.kinds:
                summary.reasons[task, method] = way.refusal
                continue
            rate, tuning, _ = plan.rates(task, method, store)
            if rate is not None:
                summary.rates[task, method] = rate
            elif failed := [store.get(cell)["error"] for cell in tuning if "error" in store.get(cell)]:
                summary.reasons[task, method] = failed[0]
    for cell, done in plan.cells(store):
        if cell is not None and done and cell.stage == "test":
            place, result = (cell.task, cell.method), store.get(cell)
            if "error" in result:
                summary.reasons[place] = result["error"]
            else:
                summary.runs.setdefault(place, []).append(result)
    return summary


def deviation(scores: Sequence[float]) -> float:
    return statistics.stdev(scores) if len(scores) > 1 else float("nan")


def seconds(result: Result) -> float:
    """Choosing what to train, and the training steps; without validation."""
    return result["seconds"]["selecting"] + result["seconds"]["training"]


def operations(result: Result) -> float:
    return result["flops"]["selecting"] + result["flops"]["training"]


def interval(differences: Mapping[str, Sequence[float]], draws: int = 10_000) -> tuple[float, float, float]:
    """Mean over tasks of the mean difference, and its 95 % bootstrap interval: tasks are drawn, then seeds within each.

    Args:
        differences: task -> differences of two methods' scores with the same seed.
    """
    generator = np.random.default_rng(0)
    values = [np.asarray(list(of_task), dtype=float) for of_task in differences.values()]
    means = np.empty(draws)
    for i in range(draws):
        tasks = generator.integers(len(values), size=len(values))
        means[i] = np.mean([generator.choice(values[task], size=len(values[task])).mean() for task in tasks])
    low, high = np.quantile(means, (0.025, 0.975))
    return float(np.mean([of_task.mean() for of_task in values])), float(low), float(high)


def paired(summary: Summary, first: str, second: str) -> dict[str, list[float]]:
    """Task -> differences of test scores in points, for the seeds that both methods have run."""
    found = {task: by_seed(*(summary.runs.get((task, method), ()) for method in (first, second))) for task in summary.tasks}
    return {task: differences for task, differences in found.items() if differences}


def by_seed(first: Sequence[Result], second: Sequence[Result]) -> list[float]:
    """Differences of test scores in points, for the seeds that both have run."""
    ours, theirs = ({run["cell"]["seed"]: 100 * run["test"] for run in runs} for runs in (first, second))
    return [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]
