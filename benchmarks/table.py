"""``python -m benchmarks.table``: the stored results as README's table and picture; what has no reach set stays in the JSON."""

from __future__ import annotations

import json

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from . import gpu, llama
from .common import RESULTS

NAMES = ("step", "kernels", "memory", "sensitivity", "groups", "accuracy_sparse", "accuracy_full")


def main() -> None:
    print("| what | measured | reach | met |\n|---|---|---|---|")
    commits = set()
    for name in NAMES:
        path = RESULTS / "cpu" / f"{name}.json"
        if path.is_file():
            stored = json.loads(path.read_text())
            commits.add(stored["machine"]["commit"])
            for line in stored["rows"]:
                if line["reach"] != "not set":
                    print(f"| {line['what']} | {line['measured']:g} | {line['reach']} | {'yes' if line['met'] else '**no**'} |")
    print(f"\n{stored['machine']['processor']}, {stored['machine']['threads']} threads, commits {', '.join(sorted(commits))}\n")
    gpus()
    draw_steps()


def gpus() -> None:
    """A table for each GPU of which there are results; with none, what is to be measured."""
    for name in sorted({path.parent for path in RESULTS.glob("*/gpu.json")}):
        stored = [json.loads(path.read_text()) for path in (name / "gpu.json", name / "llama.json") if path.is_file()]
        rows = {
            line["what"]: f"{line['measured']:g} | {line['reach']} | {'yes' if line['met'] else '**no**'}"
            for part in stored
            for line in part["rows"]
        }
        commits = sorted({part["machine"]["commit"] for part in stored})
        _gpu_table(f"{stored[0]['machine']['name']}, commit {', '.join(commits)}", rows)
    if not list(RESULTS.glob("*/gpu.json")):
        _gpu_table("an H200", {})


def _gpu_table(name: str, rows: dict[str, str]) -> None:
    print(f"On {name}:\n\n| what | measured | reach | met |\n|---|---|---|---|")
    for what, (reach, _) in (gpu.REACH | llama.REACH).items():
        print(f"| {what} | {rows.get(what, f'not yet measured | {reach} |')} |")


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
