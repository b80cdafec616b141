"""What a run has cost, epoch by epoch, as a picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..extras import needs
from .report import Report

PAID, PLANNED, TOKENS, EXAMPLES = "#4c78a8", "#333333", "#e45756", "#f2a93b"


def draw_cost(report: Report, path: Path, say: Callable[[str], None]) -> None:
    """Draws FLOPs, shares of tokens and examples, and seconds of each epoch of a run that leaves some out.

    Says so where there is nothing to draw with.
    """
    if not report.spent or not (report.active or report.examples):
        return
    try:
        figure_class = needs("matplotlib.figure", "train").Figure
    except ImportError as error:
        say(f"{path.name} left out: {error}")
        return
    epochs = range(1, len(report.spent) + 1)
    figure = figure_class(figsize=(10, 3.4), layout="constrained")
    flops, shares, seconds = figure.subplots(1, 3)
    flops.bar(epochs, report.spent, color=PAID, label="paid")
    if report.planned:
        flops.plot(epochs, report.planned, linestyle="none", marker="_", markersize=22, color=PLANNED, label="planned")
    flops.set_ylabel("FLOPs of full fine-tuning's epoch")
    for name, lines, color, marker in (
        ("tokens in the backward", report.active, TOKENS, "o"),
        ("examples", report.examples, EXAMPLES, "s"),
    ):
        if lines:
            key = "examples" if lines is report.examples else "tokens"
            shares.plot(epochs, [line[key] for line in lines], color=color, marker=marker, label=name)
    shares.set_ylim(0, 1.05)
    shares.set_ylabel("share that took part")
    measured = report.seconds["epochs"][-len(epochs) :]  # since the run was resumed, if it was
    seconds.bar(epochs[len(epochs) - len(measured) :], measured, color=PAID)
    seconds.set_ylabel("seconds, without validation")
    for axes in (flops, shares, seconds):
        axes.set_xlabel("epoch")
        axes.set_xticks(epochs if len(epochs) < 12 else range(1, len(epochs) + 1, len(epochs) // 6))
        axes.set_xlim(0.4, len(epochs) + 0.6)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in (flops, shares):
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)
