"""What a run has cost, epoch by epoch, as a picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..extras import needs
from .report import Report

PAID, PLANNED, TOKENS, EXAMPLES = "#4c78a8", "#111111", "#e45756", "#b36b00"
BAR, FEW = 0.8, 12  # width of a bar; epochs below which each has a number and markers


def draw_cost(report: Report, path: Path, say: Callable[[str], None]) -> None:
    """Draws FLOPs, shares of tokens and examples, and seconds of each epoch of a run that leaves some out.

    Says so where there is nothing to draw with.
    """
    if not report.spent or not (report.active or report.examples):
        return
    try:
        figure(report).savefig(path, dpi=120)
    except ImportError as error:
        say(f"{path.name} left out: {error}")


def figure(report: Report) -> Any:
    """The picture that `draw_cost` writes."""
    figure_class = needs("matplotlib.figure", "train").Figure
    epochs = range(1, len(report.spent) + 1)
    made = figure_class(figsize=(10, 3.4), layout="constrained")
    flops, shares, seconds = made.subplots(1, 3)
    flops.bar(epochs, report.spent, BAR, color=PAID, label="paid")
    if report.planned:
        ends = [[epoch + side * BAR / 2 for epoch in epochs] for side in (-1, 1)]
        planned = report.planned[: len(epochs)]  # a run that was stopped early has planned more
        flops.hlines(planned, *ends, color="white", linewidth=4)  # which sets it off from the bar
        flops.hlines(planned, *ends, color=PLANNED, linewidth=2, label="planned")
    flops.set_ylabel("FLOPs of full fine-tuning's epoch")
    few = len(epochs) < FEW
    for name, lines, color, size, how in (
        ("tokens in the backward", report.active, TOKENS, 5, "o"),
        ("examples", report.examples, EXAMPLES, 9, "s"),
    ):
        if lines:
            key = "examples" if lines is report.examples else "tokens"
            shares.plot(epochs, [line[key] for line in lines], color=color, marker=how if few else "", fillstyle="none" if how == "s" else "full",
                        markersize=size, linestyle="--" if how == "s" else "-", label=name)  # fmt: skip
    shares.set_ylim(0, 1.05)
    shares.set_ylabel("share that took part")
    measured = report.seconds["epochs"][-len(epochs) :]  # since the run was resumed, if it was
    seconds.bar(epochs[len(epochs) - len(measured) :], measured, BAR, color=PAID)
    seconds.set_ylabel("seconds, without validation")
    for axes in (flops, shares, seconds):
        axes.set_xlabel("epoch")
        axes.set_xticks(epochs if few else range(1, len(epochs) + 1, len(epochs) // 6))
        axes.set_xlim(0.4, len(epochs) + 0.6)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in (flops, shares):
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, fontsize=8)
    return made
