"""The confusion matrix as a picture: shares of each gold label, on a logarithmic scale; the worst cells are numbered and named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...extras import needs
from .classes import most_confused, neighbourly

WORST, COUNTED = 20, 24  # cells that are named; labels up to which every cell shows its count
CELL, PITCH = 0.32, 0.092  # inches: of a cell with its count, of a label's line
SMALLEST, LARGEST = 4.5, 16.0  # inches of the matrix
SHARES = (1, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)


def draw_confusion(matrix: NDArray, label_names: Sequence[str], path: Path) -> None:
    """Draws `confusion`'s matrix, without what was cut off: labels that are taken for each other stand side by side.

    Raises:
        NotInstalled: without matplotlib.
    """
    figure_class = needs("matplotlib.figure", "evaluate").Figure
    colors = needs("matplotlib.colors", "evaluate")
    size = len(label_names)
    order = neighbourly(matrix)
    counts, names = matrix[np.ix_(order, order)], [label_names[i] for i in order]
    side = min(LARGEST, max(SMALLEST, min(CELL, 8 / size) * size, PITCH * size))
    figure = figure_class(figsize=(side, side))
    axes = figure.add_axes((0, 0, 1, 1))
    shares = counts / np.maximum(1, matrix.sum(1)[order])[:, None]
    drawn = np.ma.masked_equal(shares, 0)
    least = float(drawn.min()) if drawn.count() else 1.0
    scale = colors.LogNorm(least / 4, 1)  # so that the least is told from none
    image = axes.imshow(drawn, norm=scale, cmap="Blues", interpolation="nearest", aspect="auto")
    _explain_colors(figure, image, side, least)
    _name_labels(axes, counts, names, side)
    if size <= COUNTED:
        for (gold, predicted), count in np.ndenumerate(counts):
            if count:
                dark = scale(shares[gold, predicted]) > 0.55
                axes.text(predicted, gold, f"{count:,}", ha="center", va="center", fontsize=7, color="white" if dark else "black")
    axes.set_ylabel("gold", fontsize=10)
    axes.set_xlabel("predicted", fontsize=10)
    axes.xaxis.set_label_position("top")
    _name_worst(axes, counts, names, side)
    figure.savefig(path, dpi=150, bbox_inches="tight")


def _explain_colors(figure: Any, image: Any, side: float, least: float) -> None:
    bar = figure.colorbar(image, cax=figure.add_axes((0, -0.35 / side, 3 / side, 0.12 / side)), orientation="horizontal")
    ticks = [share for share in SHARES if share >= least / 2]
    bar.set_ticks(ticks, labels=[f"{share:.1%}" if share < 0.01 else f"{share:.0%}" for share in ticks], fontsize=7)
    bar.minorticks_off()
    bar.set_label("share of the gold label's texts or words; white: none", fontsize=8)


def _name_labels(axes: Any, counts: NDArray, names: Sequence[str], side: float) -> None:
    """Those that fit: the ones with the most errors first, none nearer to another than a line is high."""
    apart = PITCH * len(names) / side  # in labels
    errors = counts.sum(0) + counts.sum(1) - 2 * np.diag(counts)
    chosen: list[int] = []
    for i in np.argsort(-errors, kind="stable").tolist():
        if all(abs(i - other) >= apart for other in chosen):
            chosen.append(i)
    shown = [shortened(names[i], 26) for i in chosen]
    axes.set_xticks(chosen, shown, rotation=90, fontsize=6.2, parse_math=False)
    axes.set_yticks(chosen, shown, fontsize=6.2, parse_math=False)
    axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=2)


def _name_worst(axes: Any, counts: NDArray, names: Sequence[str], side: float) -> None:
    """A ring and a number at each of the worst cells, and beside the matrix what they are."""
    worst = most_confused(counts, names, WORST)
    place = {name: i for i, name in enumerate(names)}
    lines = []
    for number, pair in enumerate(worst, start=1):
        x, y = place[pair.predicted], place[pair.gold]
        lines.append(
            f"{number:2d}  {shortened(pair.gold, 24)} → {shortened(pair.predicted, 24)}  {pair.errors} of {pair.support}"
        )
        if len(names) > COUNTED:
            axes.plot(x, y, marker="s", markersize=7, fillstyle="none", color="black", markeredgewidth=0.8)
            edge = 0.03 * len(names)  # there, beside the labels, a number stands inside
            across, at = (5, "left") if x > y or x < edge else (-5, "right")
            up = 4 if x > y and y > edge else -9
            axes.annotate(str(number), (x, y), (across, up), textcoords="offset points", ha=at, fontsize=7)
    title = "taken for another most often (gold → predicted)\n" if lines else "no label was taken for another"
    axes.text(
        1 + 0.2 / side, 1, "\n".join([title, *lines]), transform=axes.transAxes, va="top", fontsize=8, parse_math=False, linespacing=1.5
    )  # fmt: skip


def shortened(name: str, most: int) -> str:
    """With its ends, which tell it from its like."""
    return name if len(name) <= most else f"{name[: most // 2]}…{name[-(most - most // 2 - 1) :]}"
