"""Two pictures of stored results: score against training cost, and every seed's score on every task."""

from __future__ import annotations

import math
import statistics
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .methods import METHODS
from .plan import Plan
from .store import Store
from .summary import Summary, operations, summarise
from .table import KINDS
from .tasks import TASKS

COLORS = {"ours": "#2a7f62", "baseline": "#5b6fb5", "control": "#c9822b"}
MARKERS = "os^DvPX*<>pdhH"  # one a method
INK = "#444444"


def draw(store: Store, plan: Plan) -> list[Path]:
    """Writes ``cost.png`` and ``scores.png`` into the store's folder; only what there are results for."""
    summary = summarise(store, plan)
    drawn = {"cost.png": cost_picture(summary), "scores.png": scores_picture(summary)}
    paths = []
    for name, figure in drawn.items():
        if figure is not None:
            store.folder.mkdir(parents=True, exist_ok=True)
            figure.savefig(store.folder / name, dpi=120)
            plt.close(figure)
            paths.append(store.folder / name)
    return paths


def cost_picture(summary: Summary) -> Figure | None:
    """A point for each method: mean test score against training FLOPs beside full fine-tuning's; a panel a kind of task."""
    panels = [kind for kind in KINDS if "full" in summary.of_kind(kind) and summary.shared_tasks(kind)]
    if not panels:
        return None
    figure, axes = plt.subplots(1, len(panels), figsize=(2 + 5.2 * len(panels), 4.8), layout="constrained", squeeze=False)
    drawn: dict[str, Line2D] = {}
    for ax, kind in zip(axes[0], panels, strict=True):
        tasks = summary.shared_tasks(kind)
        part = Summary(tasks, summary.methods, {place: runs for place, runs in summary.runs.items() if place[0] in tasks})
        points = {name: (part.beside_full(name, operations), *part.mean(tasks, name)) for name in summary.of_kind(kind)}
        floor = _floor([score for _, score, _ in points.values()])
        for name, (cost, score, sd) in points.items():
            style = {"color": _color(name), "marker": MARKERS[summary.methods.index(name) % len(MARKERS)], "ls": "", "ms": 7}
            drawn[name] = Line2D([], [], label=METHODS[name].label, **style)
            bar = sd if score >= floor and not math.isnan(sd) else None
            ax.errorbar(cost, max(score, floor), yerr=bar, capsize=3, lw=1, **style)
            if score < floor:
                ax.annotate(f"↓ {score:.1f}", (cost, floor), (7, -3), textcoords="offset points", fontsize=8, color=_color(name))
        ax.set_title(f"{KINDS[kind]}: mean of {len(tasks)}", loc="left")
        ax.set_xlabel("training FLOPs / full fine-tuning's (choosing what to train included)")
        ax.set_ylabel("test score, %  (bars: mean standard deviation over seeds)", fontsize=9)
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
    figure.legend(handles=[drawn[name] for name in summary.methods if name in drawn], loc="outside right center", frameon=False,
                  fontsize=9)  # fmt: skip
    return figure


def _floor(scores: list[float]) -> float:
    """The score below which a point is drawn at the bottom with its number, so that it does not squeeze the others."""
    best, middle = max(scores), statistics.median(scores)
    return max(min(scores), best - 4 * (best - middle))


def scores_picture(summary: Summary) -> Figure | None:
    """A panel for each task, a line for each method: its seeds as dots, their mean as a bar, full fine-tuning's mean across."""
    tasks = [task for task in summary.tasks if any(place[0] == task for place in summary.runs)]
    if not tasks:
        return None
    methods = [name for name in summary.methods if any((task, name) in summary.runs for task in tasks)][::-1]
    columns = min(4, len(tasks))
    rows = math.ceil(len(tasks) / columns)
    size = (2.0 + 2.9 * columns, rows * (1.3 + 0.27 * len(methods)))
    figure, grid = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False, sharey=True)
    for ax in grid.flat[len(tasks) :]:
        ax.remove()
    for ax, task in zip(grid.flat, tasks, strict=False):
        if full := summary.score(task, "full"):
            ax.axvline(statistics.mean(full), color=INK, lw=0.8, ls=":")
        for height, name in enumerate(methods):
            if found := summary.score(task, name):
                ax.plot(found, [height] * len(found), "o", color=_color(name), alpha=0.45, ms=5, mew=0)
                ax.plot([statistics.mean(found)], [height], "|", color=_color(name), ms=13, mew=2)
        ax.set_yticks(range(len(methods)), [METHODS[name].label for name in methods], fontsize=8)
        ax.set_title(f"{task}, {TASKS[task].score.replace('_', ' ')}", loc="left", fontsize=9)
        ax.tick_params(axis="x", labelsize=8)
        ax.grid(alpha=0.2)
        ax.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("test score, %: a dot a seed, a bar their mean, dotted full fine-tuning's mean", fontsize=9)
    _legend(figure)
    return figure


def _color(method: str) -> str:
    return "#222222" if method == "full" else COLORS[METHODS[method].group]


def _legend(figure: Figure) -> None:
    dots = [Line2D([], [], marker="o", ls="", color=color, label=name) for name, color in COLORS.items()]
    figure.legend(handles=dots, loc="outside upper right", ncols=len(dots), frameon=False, fontsize=8)
