"""Which side a decoder's layers attend to, for every method, on the small decoder: ``python -m benchmarks.decoder``.

Runs what is missing, then writes a table and a picture, ``decoder-500`` if that many texts were trained on, into
``benchmarks/results/decoder``. The harness, its rules and its data are those of `benchmarks.tasks`.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Annotated

import matplotlib
import typer
from rich.console import Console

from clm_kernels.files import write_atomically

from .common import RESULTS
from .tasks.__main__ import names
from .tasks.methods import METHODS
from .tasks.plan import Plan
from .tasks.store import Settings, Store
from .tasks.summary import Summary, by_seed, deviation, interval, summarise
from .tasks.table import made_with, table
from .tasks.tasks import TASKS

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SIDES = {"none": "causal", "upper half": "upper half", "all": "both sides"}
COLORS = {
    "full": "#222222",
    "lora": "#5b6fb5",
    "lora_qv": "#93a3dd",
    "head": "#c9822b",
    "sparse": "#2a7f62",
    "blocks_wide": "#7fbf9f",
}


def score(summary: Summary, task: str, method: str) -> str:
    found = summary.score(task, method)
    if len(found) < 2:
        return f"{found[0]:.1f}, one seed" if found else "—"
    return f"{statistics.mean(found):.1f} ± {deviation(found):.1f}"


def rates(summary: Summary, method: str) -> str:
    return ", ".join(f"{rate:g}" for rate in sorted({rate for (_, name), rate in summary.rates.items() if name == method}))


def markdown(summaries: dict[str, Summary], store: Store) -> str:
    """Scores of every method and side, then what attending to both sides changes."""
    first = summaries["none"]
    rows = [
        [METHODS[method].label, SIDES[side], rates(summary, method), *(score(summary, task, method) for task in first.tasks)]
        for method in first.methods
        for side, summary in summaries.items()
    ]
    text = "Test score in percent, mean ± standard deviation over seeds: span F1 of tags, accuracy of texts."
    against = "Differences from causal attention in points, all methods and seeds paired, with 95 % bootstrap intervals."
    return (
        "\n\n".join(
            [
                text,
                table(["", "attention", "rates", *first.tasks], rows),
                against,
                gains(summaries),
                made_with(store, unsaid="bidirectional"),
            ]
        )
        + "\n"
    )


def gains(summaries: dict[str, Summary]) -> str:
    rows = []
    for side in list(SIDES)[1:]:
        for task in summaries["none"].tasks:
            by_method = {}
            for method in summaries["none"].methods:
                ours, causal = (summaries[which].runs.get((task, method), ()) for which in (side, "none"))
                if differences := by_seed(ours, causal):
                    by_method[method] = differences
            if by_method:
                mean, low, high = interval(by_method)
                rows.append([SIDES[side], task, f"{mean:+.1f}", f"{low:+.1f} … {high:+.1f}"])
    return table(["attention", "task", "difference", "interval"], rows)


def draw(summaries: dict[str, Summary], path: Path) -> None:
    """A panel for each task: from causal attention to both sides, a line for each method, its seeds as dots."""
    first = summaries["none"]
    figure, grid = plt.subplots(
        1, len(first.tasks), figsize=(2 + 3.1 * len(first.tasks), 3.6), layout="constrained", squeeze=False
    )
    for ax, task in zip(grid[0], first.tasks, strict=True):
        for method in first.methods:
            dots = [(x, value) for x, side in enumerate(SIDES) for value in summaries[side].score(task, method)]
            if dots:
                means = [(x, statistics.mean(v for at, v in dots if at == x)) for x in sorted({x for x, _ in dots})]
                ax.plot(*zip(*dots, strict=True), "o", color=COLORS.get(method, "#9aa5b1"), alpha=0.35, ms=4, mew=0)
                ax.plot(*zip(*means, strict=True), color=COLORS.get(method, "#9aa5b1"), lw=1.6, label=METHODS[method].label)
        ax.set_xticks(range(len(SIDES)), SIDES.values(), fontsize=8)
        ax.set_title(f"{task}, {TASKS[task].score.replace('_', ' ')}", loc="left", fontsize=9)
        ax.tick_params(axis="y", labelsize=8)
        ax.grid(alpha=0.2)
        ax.spines[["top", "right"]].set_visible(False)
    grid[0][0].set_ylabel("test score, %", fontsize=9)
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(
    tasks: Annotated[str, typer.Option(help="Tasks, separated by commas.")] = "snips_slots,bc5cdr",
    methods: Annotated[str, typer.Option(help="Methods, separated by commas.")] = "full,lora_qv,sparse,blocks_wide,head",
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of each method.")] = 3,
    train_size: Annotated[int, typer.Option(min=1)] = 500,
    tune_size: Annotated[int, typer.Option(min=1, help="Examples of train that learning rates are tuned with.")] = 500,
    validation_size: Annotated[int, typer.Option(min=1)] = 300,
    test_size: Annotated[int, typer.Option(min=1)] = 1000,
    epochs: Annotated[int, typer.Option(min=1)] = 3,
    batch_size: Annotated[int, typer.Option(min=1)] = 8,
    model: Annotated[str, typer.Option(help="Directory of a decoder. (default: the small one, made where it is missing)")] = "",
    results: Annotated[Path, typer.Option(help="Folder of the results.")] = RESULTS / "decoder",
    jobs: Annotated[int, typer.Option(min=1, help="Cells that run side by side.")] = 1,
    budget_minutes: Annotated[float | None, typer.Option(min=0, help="Starts no cell that would end later.")] = None,
    draw_only: Annotated[bool, typer.Option(help="Run nothing.")] = False,
) -> None:
    """Runs what is missing, a side after the other, then writes table and picture."""
    from .decoder_model import pretrained
    from .tasks.run import Runner

    directory, end = model or str(pretrained()), None if budget_minutes is None else time.monotonic() + 60 * budget_minutes
    plan = Plan(names(tasks), names(methods), seeds, seeds, ["banking77", "snips_slots"])
    stores = {
        side: Store(results, Settings(directory, train_size, validation_size, test_size, epochs, batch_size, 128,
                                      {"bidirectional": side}, None if tune_size == train_size else tune_size))
        for side in SIDES
    }  # fmt: skip
    for side in ("none", "all", "upper half"):  # the ends first, should the time not suffice
        store = stores[side]
        left = None if end is None else end - time.monotonic()
        if not draw_only and not Runner(plan, store, jobs, left).run():
            Console().print(f"the time is up at {SIDES[side]}; the same command goes on from here")
            break
    summaries = {side: summarise(store, plan) for side, store in stores.items()}
    written, drawn = (results / f"decoder-{train_size}.{suffix}" for suffix in ("md", "png"))
    write_atomically(written, markdown(summaries, stores["none"]).encode())
    draw(summaries, drawn)
    Console().print(f"written: {written}, {drawn}")


if __name__ == "__main__":
    typer.run(main)
