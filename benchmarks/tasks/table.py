"""The comparison as markdown for people, and as a tidy CSV with a line for each run; both from stored results alone."""

from __future__ import annotations

import csv
import io
import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from clm_kernels.files import write_atomically

from .methods import CONTRASTS, METHODS
from .plan import Plan
from .store import Result, Store
from .summary import Summary, deviation, interval, operations, paired, seconds, summarise
from .tasks import TASKS

KINDS = {"sequence": "sequence tasks", "token": "token tasks"}
REST = {"hint3_curekart": "without hint3_curekart"}  # none of whose rows are left for fresh draws, as CLAIM.md says
NOTHING = "—"
COLUMNS = (
    "task", "method", "seed", "learning_rate", "score", "test", "validation", "best_step", "trained", "trained_head",
    "parameters", "seconds", "tokens_per_second", "flops", "peak_bytes",
)  # fmt: skip


def write_table(store: Store, plan: Plan, left_out: Mapping[str, str]) -> Path:
    """Writes ``table.md`` and ``runs.csv`` into the store's folder; gives the first one's path."""
    summary = summarise(store, plan)
    write_atomically(store.folder / "runs.csv", tidy(summary).encode())
    path = store.folder / "table.md"
    write_atomically(path, markdown(summary, store, left_out).encode())
    return path


def tidy(summary: Summary) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for run in (run for runs in summary.runs.values() for run in runs):
        writer.writerow({**run, **run["cell"], "seconds": round(seconds(run), 2), "flops": operations(run)})
    return out.getvalue()


def markdown(summary: Summary, store: Store, left_out: Mapping[str, str]) -> str:
    shown = [method for method in summary.methods if any((task, method) in summary.runs for task in summary.tasks)]
    parts = [
        "In short: test score in percent, mean over the tasks ± mean standard deviation over seeds; costs beside full fine-tuning.",
        overview(summary, shown),
        "Test score in percent, mean ± standard deviation over seeds (the worst seed in brackets); macro-F1 for unfair_tos, "
        "span F1 for token tasks, accuracy else.",
        *(scores(summary, kind, title) for kind, title in KINDS.items()),
        "Costs, all tasks together; time and FLOPs count choosing what to train and the training steps, beside full fine-tuning.",
        costs(summary, shown),
        "Differences in points of test score, paired by task and seed, with 95 % bootstrap intervals over tasks and seeds.",
        differences(summary),
        reasons(summary, left_out),
        made_with(store),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def overview(summary: Summary, methods: Sequence[str]) -> str:
    """A line for each method: its mean over the tasks of a kind, and what it costs; docs/numbers.md's table."""
    if not methods:
        return ""
    shared = {title: summary.shared_tasks(kind) for kind, title in KINDS.items()}
    shared = {f"{len(tasks)} {title}": tasks for title, tasks in shared.items() if tasks}
    means = [_best_bold([_mean(summary, tasks, method) for method in methods]) for tasks in shared.values()]
    costs = [_cost(summary, method)[1:4] for method in methods]
    return table(
        ["", *shared, "trained entries without head", "time / full", "FLOPs / full"],
        ([METHODS[method].label, *(column[i] for column in means), *costs[i]] for i, method in enumerate(methods)),
    )


def scores(summary: Summary, kind: str, title: str) -> str:
    """A line for each method, a column for each task of the kind, and their mean where the means can be compared."""
    tasks = [task for task in summary.tasks if TASKS[task].kind == kind]
    methods = [
        method for method in summary.methods if any((task, method) in {**summary.runs, **summary.reasons} for task in tasks)
    ]
    if not tasks or not methods:
        return ""
    shared = summary.shared_tasks(kind)
    columns: list[list[tuple[float, str]]] = [[_cell(summary, task, method) for method in methods] for task in tasks]
    columns.append([_mean(summary, shared, method) for method in methods])
    columns = [_best_bold(column) for column in columns]
    mean = f"mean of {'all' if len(shared) == len(tasks) else f'{len(shared)} of {len(tasks)}'} {title}"
    return table(
        ["", *tasks, mean],
        ([METHODS[method].label, *(column[i] for column in columns)] for i, method in enumerate(methods)),
    )


def _cell(summary: Summary, task: str, method: str) -> tuple[float, str]:
    found = summary.score(task, method)
    if not found:
        return -math.inf, "cannot" if (task, method) in summary.reasons else NOTHING
    mean = statistics.mean(found)
    if len(found) == 1:
        return mean, f"{mean:.1f}, one seed"
    return mean, f"{mean:.1f} ± {deviation(found):.1f} ({min(found):.1f})"


def _mean(summary: Summary, shared: Sequence[str], method: str) -> tuple[float, str]:
    if not shared or (shared[0], method) not in summary.runs:
        return -math.inf, NOTHING
    mean, sd = summary.mean(shared, method)
    return mean, f"{mean:.1f}" if math.isnan(sd) else f"{mean:.1f} ± {sd:.1f}"


def _best_bold(column: list[tuple[float, str]]) -> list[str]:
    best = max(value for value, _ in column)
    return [f"**{text}**" if value == best and math.isfinite(best) else text for value, text in column]


def costs(summary: Summary, methods: Sequence[str]) -> str:
    titles = ["", "rates", "trained entries without head", "time / full", "FLOPs / full", "tokens/s", "peak memory / full",
              "median steps to full's validation", "runs that got there"]  # fmt: skip
    return table(titles, ([METHODS[method].label, *_cost(summary, method)] for method in methods)) if methods else ""


def _cost(summary: Summary, method: str) -> list[str]:
    runs = [run for task in summary.tasks for run in summary.runs.get((task, method), ())]
    rates = sorted({rate for (_, name), rate in summary.rates.items() if name == method})
    tuned = "" if METHODS[method].tuned == "rate" else f"{METHODS[method].tuned} "
    steps = summary.steps_to_full(method)
    reached = [step for step in steps if step is not None]
    return [
        tuned + ", ".join(f"{rate:g}" for rate in rates),
        f"{statistics.median(run['trained'] - run['trained_head'] for run in runs):,.0f}",
        _ratio(summary.beside_full(method, seconds)),
        _ratio(summary.beside_full(method, operations)),
        f"{statistics.mean(run['tokens_per_second'] for run in runs):,.0f}",
        _ratio(summary.beside_full(method, lambda run: run["peak_bytes"])),
        f"{statistics.median(reached):g}" if reached else NOTHING,
        f"{len(reached)} of {len(steps)}" if steps else NOTHING,
    ]


def _ratio(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2f}"


def differences(summary: Summary) -> str:
    rows = []
    for (first, second), (kind, title) in itertools.product(CONTRASTS, ({None: ""} | KINDS | REST).items()):
        differences = paired(summary, first, second)
        if found := {
            task: own for task, own in differences.items() if kind in (None, TASKS[task].kind) or (kind in REST and task != kind)
        }:
            mean, low, high = interval(found)
            pairs = sum(map(len, found.values()))
            label = f"{METHODS[first].label} against {METHODS[second].label}{title and f', {title}'}"
            rows.append([label, f"{mean:+.2f}", f"{low:+.2f} … {high:+.2f}",
                         "yes" if low > 0 or high < 0 else "no", f"{pairs} over {len(found)} tasks"])  # fmt: skip
    return table(["", "difference", "interval", "without zero", "pairs"], rows) if rows else ""


def reasons(summary: Summary, left_out: Mapping[str, str]) -> str:
    """What could not run, and why, a line for each reason."""
    places: dict[tuple[str, str], list[str]] = {}
    for (task, method), reason in summary.reasons.items():
        places.setdefault((METHODS[method].label, reason), []).append(task)
    lines = [f"- {label} cannot run on {', '.join(tasks)}: {reason}" for (label, reason), tasks in places.items()]
    lines += [
        f"- {METHODS[method].label} was left out: it {reason}, which that version did not have"
        for method, reason in left_out.items()
    ]
    return "\n".join(lines)


def made_with(store: Store, unsaid: str = "") -> str:
    """Sizes, options but the one that is `unsaid`, and machine."""
    used = store.settings
    sizes = ", ".join(f"{getattr(used, f'{part}_size') or 'all'} {part}" for part in ("train", "validation", "test"))
    options = "".join(f", {name} {value}" for name, value in used.options.items() if name != unsaid)
    machines = {_machine(run) for run in store.all() if "made_on" in run}
    return (
        f"Examples: {sizes} (where a task has as many); {used.epochs} epochs, batches of {used.batch_size}{options}. "
        f"Made on {'; '.join(sorted(machines)) or 'nothing yet'}."
    )


def _machine(run: Result) -> str:
    made_on = run["made_on"]
    return f"{made_on['device']}, {run['threads']} threads, torch {made_on['torch']}, transformers {made_on['transformers']}"


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
