"""Whole training runs beside each other: seconds, FLOPs, memory and score. ``python -m benchmarks.training``.

One run at a time, with as many threads as torch takes; the methods take turns, seed by seed, on the same texts, batches and schedule. Learning rates are those
that the comparison of tasks has tuned for all-MiniLM-L6-v2 (`benchmarks.tasks`); LoRA of rank 32 takes those of rank 8. Runs are kept as they end, and a second call goes on.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from clm_kernels.demo import model_directory

from .common import RESULTS
from .tasks.methods import METHODS
from .tasks.plan import Plan
from .tasks.run import Runner
from .tasks.store import Cell, Result, Settings, Store
from .tasks.summary import operations
from .tasks.tasks import TASKS

RATES = {
    "sequence": {"full": 1e-4, "lora": 1e-3, "lora_32": 1e-3, "shira": 3e-3, "head_replay": 1e-2},
    "token": {"full": 3e-4, "lora": 3e-3, "lora_32": 3e-3, "shira": 1e-2, "head_replay": 1e-2},
}
OURS = {"sequence": 1e-3, "token": 3e-3}
WAYS = ("full", "lora", "lora_32", "shira", "head_replay", "groups", "noise", "skip", "cost_40", "cost_33")


def rate(task: str, method: str) -> float:
    """The learning rate of a method.

    Raises:
        SystemExit: for a method of others that has none here.
    """
    kind, way = TASKS[task].kind, METHODS[method]
    found = RATES[kind].get(method) or RATES[kind].get(way.rates_of) or (OURS[kind] if way.group == "ours" else None)
    if found is None:
        raise SystemExit(f"training: methods must be ours or among {', '.join(RATES[kind])}, got {method}, whose rate is not set")
    return found


@dataclass(frozen=True)
class Turns(Plan):
    """Every method of a task in turn, one seed after the other, at known rates."""

    def cells(self, store: Store) -> Iterator[tuple[Cell | None, bool]]:
        for seed in range(1, self.seeds + 1):
            for task in self.tasks:
                for method in self.methods:
                    cell = Cell(task, method, "test", seed, rate(task, method))
                    yield cell, store.get(cell) is not None


def curve(run: Result) -> tuple[list[float], list[float]]:
    """Seconds of choosing and training up to each validation, and its score in percent."""
    seconds = accumulate(run["seconds"]["epochs"], initial=run["seconds"]["selecting"])
    next(seconds)
    return list(seconds), [100 * line["validation"] for line in run["history"]]


def until(run: Result, score: float) -> float | None:
    """Seconds until a validation had this score, in percent."""
    return next((second for second, found in zip(*curve(run), strict=True) if found >= score), None)


def table(runs: dict[str, list[Result]]) -> list[str]:
    """Lines of a table of one task; `runs`: method -> a run a seed, the same seeds for all. Times of other threads are not compared."""
    lines = [
        "| | test score | beside full | FLOPs / full's | time / full's | s to own best | s to full's best | s in all | MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    full = runs["full"]
    for method, own in runs.items():
        apart = statistics.mean(100 * (a["test"] - b["test"]) for a, b in zip(own, full, strict=True))
        flops = statistics.median(operations(a) / operations(b) for a, b in zip(own, full, strict=True))
        alike = [(a, b) for a, b in zip(own, full, strict=True) if a["threads"] == b["threads"]]
        seconds = f"{statistics.median(training(a) / training(b) for a, b in alike):.2f}" if alike else ""
        best = [until(run, max(curve(run)[1])) for run in own]
        reached = [until(a, max(curve(b)[1])) for a, b in zip(own, full, strict=True)]
        to_full = f"{statistics.median(reached):.0f}" if all(reached) else f"{sum(map(bool, reached))} of {len(reached)} do"
        lines.append(
            f"| {METHODS[method].label} | {statistics.mean(100 * run['test'] for run in own):.1f} | {apart:+.1f} | {flops:.2f} |"
            f" {seconds} | {statistics.median(best):.0f} | {to_full} | {statistics.median(map(training, own)):.0f} |"
            f" {statistics.median(run['peak_bytes'] for run in own) / 1e6:.0f} |"
        )
    return lines


def training(run: Result) -> float:
    """Seconds of the epochs, and of what is replayed."""
    return run["seconds"]["training"]


def picture(found: dict[str, dict[str, list[Result]]], path: Path) -> None:
    """Validation score against seconds, a panel a task; the mean of the seeds, each epoch at its median second, and pale each seed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, grid = plt.subplots(1, len(found), figsize=(2 + 5.4 * len(found), 4.6), layout="constrained", squeeze=False)
    for axes, (task, runs) in zip(grid[0], found.items(), strict=True):
        for i, (method, own) in enumerate(runs.items()):
            color = "#222222" if method == "full" else plt.get_cmap("tab10")(i)
            style = "-" if METHODS[method].group == "ours" or method == "full" else ":"
            curves = [curve(run) for run in own]
            for each in curves if len(own) > 1 else ():
                axes.plot(*each, style, lw=0.8, color=color, alpha=0.2)
            middle = [statistics.median(at) for at in zip(*(seconds for seconds, _ in curves), strict=True)]
            mean = [statistics.mean(at) for at in zip(*(scores for _, scores in curves), strict=True)]
            axes.plot(middle, mean, style, marker="o", ms=4, lw=1.6, color=color, label=METHODS[method].label)
        axes.set_title(task, loc="left")
        axes.set_xlabel("seconds of choosing and training")
        axes.set_ylabel(f"validation {TASKS[task].score.replace('_', ' ')}, %")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    grid[0, -1].legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(
    tasks: Annotated[str, typer.Option(help="Tasks, separated by commas.")] = "banking77,snips_slots",
    methods: Annotated[str, typer.Option(help="Methods, separated by commas; full must be among them.")] = ",".join(WAYS),
    seeds: Annotated[int, typer.Option(min=1, help="Rounds, each with a seed of its own.")] = 3,
    train_size: Annotated[int, typer.Option(min=1, help="Training examples.")] = 2000,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over them.")] = 5,
    batch_size: Annotated[int, typer.Option(min=1, help="Examples in a batch.")] = 16,
    model: Annotated[str, typer.Option(help="Directory of the base model. (default: all-MiniLM-L6-v2)")] = "",
    results: Annotated[Path, typer.Option(help="Folder of the results.")] = RESULTS / "training",
    draw_only: Annotated[bool, typer.Option(help="Write table and picture of what there is, and run nothing.")] = False,
) -> None:
    """Runs what is missing, and writes table and picture."""
    named = [[name.strip() for name in text.split(",") if name.strip()] for text in (tasks, methods)]
    if unknown := [name for name in named[1] if name not in METHODS] or ([] if "full" in named[1] else ["no full"]):
        raise SystemExit(f"training: methods must be among {', '.join(METHODS)}, with full, got {unknown[0]}")
    store = Store(results, Settings(model or str(model_directory()), train_size, 400, 1000, epochs, batch_size))
    plan = Turns(*named, seeds, seeds, None)
    if not draw_only:
        Runner(plan, store).run()
    found: dict[str, dict[str, list[Result]]] = {}
    for task in plan.tasks:
        runs = {m: [store.get(Cell(task, m, "test", s, rate(task, m))) for s in range(1, seeds + 1)] for m in plan.methods}
        found[task] = {m: own for m, own in runs.items() if all(run and "error" not in run for run in own)}
    whole = {task: runs for task, runs in found.items() if "full" in runs}
    if not whole:
        raise SystemExit(f"training: there must be whole runs of full in {results}, got none")
    text = [
        f"{train_size} texts, {epochs} epochs, batches of {batch_size}, {_count(seeds)}, {store.settings.model_id}, {_machine(whole)}",
        "",
    ]
    for task, runs in whole.items():
        text += [f"**{task}**", "", *table(runs), ""]
    name = f"{store.settings.model_id}_{train_size}x{epochs}"
    (results / f"{name}.md").write_text("\n".join(text))
    picture(whole, results / f"{name}.png")
    Console(width=150).print("\n".join(text))


def _count(seeds: int) -> str:
    return "one seed" if seeds == 1 else f"{seeds} seeds"


def _machine(found: dict[str, dict[str, list[Result]]]) -> str:
    runs = [run for task in found.values() for own in task.values() for run in own]
    threads = " or ".join(map(str, sorted({run["threads"] for run in runs})))  # the same for all methods of a seed
    made_on = runs[0]["made_on"]
    return f"{made_on['platform']}, {threads} threads, torch {made_on['torch']}"


if __name__ == "__main__":
    typer.run(main)
