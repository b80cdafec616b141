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
PITCH, SMALLEST, LARGEST = 0.105, 4.5, 11.0  # inches: of a label, of the matrix at least and at most
MARGIN, SIDE = 2.2, 4.6  # for the labels, for the names of the worst cells


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
    side = float(np.clip(0.32 * size, SMALLEST, LARGEST))
    height, width = side + MARGIN + 0.5, side + MARGIN + SIDE
    figure = figure_class(figsize=(width, height))
    axes = figure.add_axes((MARGIN / width, 0.3 / height, side / width, side / height))
    shares = counts / np.maximum(1, matrix.sum(1)[order])[:, None]
    drawn = np.ma.masked_equal(shares, 0)
    scale = colors.LogNorm(min(0.5, float(drawn.min())) if drawn.count() else 0.5, 1)
    image = axes.imshow(drawn, norm=scale, cmap="Blues", interpolation="nearest")
    bar_axes = figure.add_axes(((MARGIN + side + 0.25) / width, 0.3 / height, 0.16 / width, 0.28 * side / height))
    figure.colorbar(image, cax=bar_axes).set_label("share of the gold label's", fontsize=8)
    bar_axes.tick_params(labelsize=7)
    _name_labels(axes, counts, names, side)
    if size <= COUNTED:
        for (gold, predicted), count in np.ndenumerate(counts):
            if count:
                dark = scale(shares[gold, predicted]) > 0.55
                axes.text(predicted, gold, f"{count:,}", ha="center", va="center", fontsize=7, color="white" if dark else "black")
    axes.set_ylabel("gold", fontsize=9)
    axes.set_xlabel("predicted", fontsize=9, loc="right")
    axes.xaxis.set_label_position("bottom")
    _name_worst(axes, counts, names, side)
    figure.savefig(path, dpi=150)


def _name_labels(axes: Any, counts: NDArray, names: Sequence[str], side: float) -> None:
    """Those that fit: the ones with the most errors first, none nearer to another than a line is high."""
    apart = PITCH * len(names) / side  # in labels
    errors = counts.sum(0) + counts.sum(1) - 2 * np.diag(counts)
    chosen: list[int] = []
    for i in np.argsort(-errors, kind="stable").tolist():
        if all(abs(i - other) >= apart for other in chosen):
            chosen.append(i)
    shown = [shortened(names[i], 26) for i in chosen]
    axes.set_xticks(chosen, shown, rotation=90, fontsize=7, parse_math=False)
    axes.set_yticks(chosen, shown, fontsize=7, parse_math=False)
    axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=2)


def _name_worst(axes: Any, counts: NDArray, names: Sequence[str], side: float) -> None:
    """A ring and a number at each of the worst cells, and beside the matrix what they are."""
    worst = most_confused(counts, names, WORST)
    place = {name: i for i, name in enumerate(names)}
    lines = []
    for number, pair in enumerate(worst, start=1):
        x, y = place[pair.predicted], place[pair.gold]
        lines.append(f"{number:2d}  {shortened(pair.gold, 24)} → {shortened(pair.predicted, 24)}  {pair.count} of {pair.support}")
        if len(names) > COUNTED:
            axes.plot(x, y, marker="s", markersize=7, fillstyle="none", color="black", markeredgewidth=0.8)
            axes.annotate(str(number), (x, y), (5, 4), textcoords="offset points", fontsize=6.5)
    title = "taken for another most often (gold → predicted)\n" if lines else "no label was taken for another"
    axes.text(
        1 + 0.25 / side, 1, "\n".join([title, *lines]), transform=axes.transAxes, va="top", fontsize=7, parse_math=False, linespacing=1.5
    )  # fmt: skip


def shortened(name: str, most: int) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
