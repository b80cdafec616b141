"""How often labels are right by their probability, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...extras import needs
from .calibration import Bin, calibration_error

RIGHT, MISSING = "#4c78a8", "#e45756"


def draw_reliability(bins: Sequence[Bin], path: Path, unit: str = "texts") -> None:
    """Draws the part that is right in each bin beside its probability, and below how many predictions each bin has.

    Raises:
        NotInstalled: without matplotlib.
    """
    figure = needs("matplotlib.figure", "evaluate").Figure(figsize=(5, 5.6), layout="constrained")
    right, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    filled = [each for each in bins if each.rows]
    middle, width = [(each.low + each.high) / 2 for each in filled], 0.92 * (bins[0].high - bins[0].low)
    accuracy, probability = [each.accuracy for each in filled], [each.probability for each in filled]
    gap = [said - true for said, true in zip(probability, accuracy, strict=True)]
    right.bar(middle, accuracy, width, color=RIGHT, label="right")
    right.bar(
        middle, gap, width, accuracy, color="none", edgecolor=MISSING, hatch="////", linewidth=0.8, label="gap to the probability"
    )
    right.plot([0, 1], [0, 1], color="black", linestyle="--", linewidth=1, label="as it should be")
    right.set_ylabel("part that is right")
    right.set_ylim(0, 1)
    figure.suptitle(f"expected calibration error {calibration_error(list(bins)):.3f}", fontsize=10)
    right.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, fontsize=8)
    counts.bar(middle, [each.rows for each in filled], width, color=RIGHT)
    counts.set_ylabel(unit)
    counts.set_xlabel("probability")
    counts.set_xlim(0, 1)
    for axes in (right, counts):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
