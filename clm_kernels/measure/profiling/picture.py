"""Reports as a picture: where time and memory go, one bar for each way to train, and which share of the tokens is active."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ...escaping import DRAWN, visible
from ...extras import needs
from ...models.roles import numbered
from .memory import PARTS
from .phases import PHASES
from .session import Report

COLORS = {
    "forward": "#4c78a8", "input gradients": "#72b7b2", "weight gradients": "#e45756", "optimizer": "#f2a93b", "data": "#b279a2",
    "other": "#9d9d9d", "idle": "#e3e3e3", "weights": "#4c78a8", "gradients": "#e45756", "optimizer state": "#f2a93b",
    "activations": "#72b7b2",
}  # fmt: skip
SHARES = 2.6  # inches that a row of shares is high


def draw(reports: Mapping[str, Report], path: str | Path, title: str = "") -> None:
    """Writes the picture (.png, .svg, .pdf).

    Args:
        reports: by the name of each bar, from top to bottom.

    Raises:
        NotInstalled: without matplotlib.
    """
    figure_class = needs("matplotlib.figure", "profiling.draw").Figure
    active = {name: report.active for name, report in reports.items() if report.active}
    bars = 1.9 + 0.55 * len(reports)
    figure = figure_class(figsize=(11, bars + SHARES * len(active)), layout="constrained")
    parts = figure.subfigures(1 + len(active), 1, height_ratios=[bars, *(SHARES for _ in active)], squeeze=False)[:, 0]
    time, memory = parts[0].subplots(1, 2)
    for part, (name, shares) in zip(parts[1:], active.items()):
        _shares(part.subplots(), name, shares)
    phases = {name: {p: report.milliseconds[p] for p in PHASES} for name, report in reports.items()}
    _bars(time, phases, "milliseconds of a step, under the profiler", [f"{sum(row.values()):.0f}" for row in phases.values()])
    megabytes = {name: {part: report.bytes[part] / 1e6 for part in PARTS} for name, report in reports.items()}
    peaks = [report.peak / 1e6 for report in reports.values()]
    _bars(memory, megabytes, "megabytes; the triangle: most at a time", [f"{peak:.0f} at most" for peak in peaks], len("at most"))
    memory.plot(peaks, [i + 0.42 for i in range(len(peaks))], linestyle="none", marker="^", markersize=8, color="#333333")
    memory.set_yticklabels([])
    figure.suptitle(visible(title), x=0.01, ha="left", **DRAWN)
    figure.savefig(path, dpi=120)


def _shares(axes, title: str, shares: Mapping[str, float]) -> None:
    """Share of active tokens over the layers' numbers, a line for each kind of linear layer."""
    lines: dict[str, dict[int, float]] = {}
    for name, share in shares.items():
        number, kind = numbered(name)
        lines.setdefault(kind, {})[number] = share
    for kind, line in lines.items():
        axes.plot(list(line), list(line.values()), marker="o", markersize=4, label=kind)
    axes.set_xticks(sorted({number for line in lines.values() for number in line}))
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("layer")
    axes.set_ylabel(f"active tokens, {title}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=8)


def _bars(axes, rows: Mapping[str, Mapping[str, float]], label: str, totals: list[str], room: int = 0) -> None:
    longest = max(sum(row.values()) for row in rows.values())
    left = [0.0] * len(rows)
    for part in next(iter(rows.values())):
        sizes = [row[part] for row in rows.values()]
        if max(sizes) < 0.003 * longest:
            continue
        bars = axes.barh(range(len(rows)), sizes, left=left, color=COLORS[part], label=part, height=0.62)
        axes.bar_label(bars, [f"{s:.0f}" if s > 0.06 * longest else "" for s in sizes], label_type="center", fontsize=8)
        left = [start + size for start, size in zip(left, sizes)]
    for i, (end, total) in enumerate(zip(left, totals)):
        axes.annotate(total, (end, i), xytext=(6, 0), textcoords="offset points", va="center", weight="bold")
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    axes.set_xlim(0, (1.15 + 0.02 * room) * longest)
    axes.set_xlabel(label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, frameon=False, fontsize=8, handlelength=1, columnspacing=1)
