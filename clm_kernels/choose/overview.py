"""What a budget chose and what it left, by layer and module: a table and a heat map."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from ..selection import Selection
from ..structure import depths, weights

_NUMBERED = re.compile(r"(?:^|\.)\d+\.(.+?)(?:\.dense)?\.weight$")


class Line(NamedTuple):
    """One scored weight.

    Attributes:
        layer: its layer's number; -1 below the layers, inf above them.
        part: its module's name in the layer; outside the layers the weight's own name.
        name: of the weight.
        selected_entries: of `entries`.
        entries: of the whole weight.
        score: this weight's share of the sensitivity of all scored weights.
        chosen: the share that lies in what is selected, of the sensitivity of all; what was left is `score - chosen`.
    """

    layer: float
    part: str
    name: str
    selected_entries: int
    entries: int
    score: float
    chosen: float


class Overview(list[Line]):
    """A line for each scored weight; printed as a table, layers from the lowest up.

    A cell says how much of the weight is selected, and how much of the weight's sensitivity lies in that; the last columns
    how much of all weights' sensitivity lies in what is selected of the layer, and in what is left.
    """

    def __str__(self) -> str:
        layers, parts, cells = self.grid()
        words = [["layer"], *(part.removesuffix(".weight").split(".") for part in parts), ["entries"], ["chosen"], ["left"]]
        high = max(map(len, words))
        table = [list(row) for row in zip(*([""] * (high - len(column)) + column for column in words), strict=True)]
        for layer in layers:
            row = [line for line in self if line.layer == layer]
            chosen = sum(line.chosen for line in row)
            totals = (
                f"{sum(line.selected_entries for line in row):,}",
                f"{chosen:.1%}",
                f"{sum(line.score for line in row) - chosen:.1%}",
            )
            table.append([_name(layer), *(_cell(cells.get((layer, part))) for part in parts), *totals])
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = ["  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)) for row in table]
        selected, entries = (sum(getattr(line, what) for line in self) for what in ("selected_entries", "entries"))
        hold = f"{selected:,} of {entries:,} entries hold {sum(line.chosen for line in self):.1%} of the sensitivity"
        return "\n".join([*lines, hold])

    def grid(self) -> tuple[list[float], list[str], dict[tuple[float, str], Line]]:
        """Layers from the lowest up, modules in the order of the forward, and the line of each cell."""
        return (
            sorted({line.layer for line in self}),
            list(dict.fromkeys(line.part for line in self)),
            {line[:2]: line for line in self},
        )


def _name(layer: float) -> str:
    return "below" if layer < 0 else "above" if layer == math.inf else str(layer)


def _cell(line: Line | None) -> str:
    if line is None:
        return ""
    return f"{line.selected_entries / line.entries:.0%} {line.chosen / line.score if line.score else 0:.0%}"


def overview(selection: Selection, scores: Mapping[str, Tensor], model: nn.Module) -> Overview:
    """How much of each scored weight is selected, and how much of the sensitivity lies in that.

    Args:
        selection: as `budget` made it from these scores.
        scores: weight name -> a score for each row, column or block.
        model: the model that has these weights.

    Raises:
        ValueError: if a selected weight has no scores, or scores of another kind.
    """
    selection.check(weights(model))
    for name, entries in selection.items():
        if name not in scores or scores[name].shape != (entries.units,):
            got = "none" if name not in scores else f"shape {tuple(scores[name].shape)}"
            raise ValueError(f"overview: the scores of {name!r} must be of its {entries.units} {entries.kind}, got {got}")
    depth, named = depths(model), weights(model)
    everything = sum(score.sum(dtype=score.double().dtype).item() for score in scores.values()) or 1.0
    lines = Overview()
    for name, score in scores.items():
        entries, score = selection.get(name), score.double().cpu()
        chosen = 0.0 if entries is None else score[entries.index.long().cpu()].sum().item()
        match = _NUMBERED.search(name)
        layer, part = depth[name], match[1] if match else name
        count = 0 if entries is None else entries.count
        lines.append(Line(layer, part, name, count, named[name].numel(), score.sum().item() / everything, chosen / everything))
    return lines


def draw(lines: Overview, path: str | Path, title: str = "") -> None:
    """Writes two heat maps of layers x modules (.png, .svg, .pdf): the density selected, and where the sensitivity is.

    Raises:
        ImportError: without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("overview: a picture needs the package matplotlib: `pip install matplotlib`") from error
    layers, parts, cells = lines.grid()
    figure = Figure(figsize=(3.2 + 1.5 * len(parts), 2.0 + 0.36 * len(layers)), layout="constrained")
    panels = {
        "entries selected, share of the weight": (lambda line: line.selected_entries / line.entries, "{:.1%}".format),
        "sensitivity, share of all (in brackets: selected of it)": (lambda line: line.score, "{:.1%} ({:.0%})".format),
    }
    for axes, (label, (value, written)) in zip(figure.subplots(1, 2, sharey=True), panels.items(), strict=True):
        shares = [[value(cells[layer, part]) if (layer, part) in cells else math.nan for part in parts] for layer in layers]
        most = max((share for row in shares for share in row if share == share), default=0) or 1
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=most, aspect="auto", origin="lower")
        for (layer, part), line in cells.items():
            axes.text(
                parts.index(part),
                layers.index(layer),
                written(value(line), line.chosen / line.score if line.score else 0),
                color="white" if value(line) > 0.6 * most else "#333333",
                ha="center",
                va="center",
                fontsize=7,
            )
        axes.set_xticks(range(len(parts)), [part.replace(".", "\n") for part in parts], fontsize=7)
        axes.set_yticks(range(len(layers)), [_name(layer) for layer in layers])
        axes.set_title(label, fontsize=9, loc="left")
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
    figure.axes[0].set_ylabel("layer")
    figure.suptitle(title, x=0.01, ha="left")
    figure.savefig(path, dpi=120)
