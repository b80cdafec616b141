"""``python -m benchmarks.table``: the stored results as docs/numbers.md's tables and picture; what has no reach set stays in the JSON."""

from __future__ import annotations

import json

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from .common import RESULTS
from .gpu.reach import REACH

NAMES = ("step", "kernels", "checks", "memory", "sensitivity", "groups", "active", "head", "accuracy_sparse", "accuracy_full")
GPU_PARTS = ("kernels", "ops", "models", "sanitize", "adamw", "launch", "products", "step", "tokens", "llama")


HEADER = "| what | measured | reach | met |\n|---|---|---|---|"


def main() -> None:
    for title, lines in (cpu(), *gpus()):
        print("\n".join([f"{title}:\n", HEADER, *lines, ""]))
    draw_steps()


def cpu() -> tuple[str, list[str]]:
    """The machine and the commits, and a line for each result."""
    lines, commits = [], []
    for name in NAMES:
        path = RESULTS / "cpu" / f"{name}.json"
        if path.is_file():
            stored = json.loads(path.read_text())
            commits.append(f"{name} {stored['machine']['commit']}")
            lines += [_line(line["what"], line) for line in stored["rows"] if line["reach"] != "not set"]
    estimated = json.loads((RESULTS / "cpu" / "estimate.json").read_text())
    commits.append(f"estimate {estimated['machine']['commit']}")
    lines.append(_estimated(estimated["rows"]))
    machine = stored["machine"]
    return f"{machine['processor']}, {machine['threads']} threads, float32; commits: {', '.join(commits)}", lines


def _line(what: str, line: dict) -> str:
    return f"| {what} | {line['measured']:g} | {line['reach']} | {'yes' if line['met'] else '**no**'} |"


def _estimated(rows: list[dict]) -> str:
    worst = max((row["ratio"] for row in rows), key=lambda ratio: abs(ratio - 1))
    what = f"estimate: predicted / measured peak memory, the worst of {len(rows)} configurations"
    return _line(what, {"measured": worst, "reach": "0.9 to 1.1", "met": all(row["met"] for row in rows)})


def gpus() -> list[tuple[str, list[str]]]:
    """The same for each GPU of which there are results; with none, what is to be measured."""
    tables = []
    for name in sorted({path.parent for part in GPU_PARTS for path in RESULTS.glob(f"*/{part}.json")} - {RESULTS / "cpu"}):
        stored = [json.loads(path.read_text()) for part in GPU_PARTS if (path := name / f"{part}.json").is_file()]
        rows = {line["what"]: line for part in stored for line in part["rows"]}
        commits = sorted({part["machine"]["commit"] for part in stored})
        tables.append((f"On {stored[0]['machine']['name']}, commit {', '.join(commits)}", _gpu_lines(rows)))
    return tables or [("On an H100 or H200", _gpu_lines({}))]


def _gpu_lines(rows: dict[str, dict]) -> list[str]:
    return [
        _line(what, rows[what]) if what in rows else f"| {what} | not yet measured | {reach} | |"
        for what, (reach, _) in REACH.items()
    ]


def draw_steps() -> None:
    """Milliseconds of one training step for each way to train, beside each other."""
    stored = json.loads((RESULTS / "cpu" / "step.json").read_text())
    milliseconds = stored["rows"][0]["milliseconds"]
    names = sorted(milliseconds, key=milliseconds.get)
    colors = ["#2a7f62" if name.startswith(("rows", "columns")) else "#9aa5b1" for name in names]
    figure, axes = plt.subplots(figsize=(7.5, 3.2), layout="constrained")
    bars = axes.barh(names, [milliseconds[name] for name in names], color=colors)
    axes.bar_label(bars, [f"{milliseconds[name]:.0f} ms" for name in names], padding=4)
    axes.set_xlim(0, 1.15 * max(milliseconds.values()))
    axes.set_xlabel("milliseconds a training step (MiniLM's shape, batch 32 x 24, fp32, two cores)")
    axes.set_title("3 % of the entries, and what else one could train", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(RESULTS / "cpu" / "step.png", dpi=120)


if __name__ == "__main__":
    main()
