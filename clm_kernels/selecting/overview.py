"""What a budget chose and what it left, by layer and module: a table and a heat map."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from ..escaping import DRAWN, visible
from ..extras import needs
from ..models.structure import depths, weights
from ..selection import Entries, Selection

_ENDS = {"below": -1.0, "above": math.inf}  # depths outside the layers
_NUMBERED = re.compile(r"(?:^|\.)\d+\.(.+?)(?:\.dense)?\.weight$")


class Line(NamedTuple):
    """One weight that was scored, or that is selected.

    Attributes:
        layer: its layer's number; ``"below"`` or ``"above"`` the layers.
        part: its module's name in the layer; outside the layers the weight's own name.
        name: of the weight.
        kind: of what is selected; empty where nothing is.
        selected_units: of `units`.
        units: rows, columns or blocks of the whole weight.
        selected_entries: of `entries`.
        entries: of the whole weight.
        sensitivity: this weight's share of the sensitivity of all scored weights; None without scores.
        chosen: the share that lies in what is selected, of the sensitivity of all; what was left is `sensitivity - chosen`.
    """

    layer: str
    part: str
    name: str
    kind: str
    selected_units: int
    units: int
    selected_entries: int
    entries: int
    sensitivity: float | None
    chosen: float | None

    @property
    def density(self) -> float:
        """Selected entries over all entries of the weight."""
        return self.selected_entries / max(1, self.entries)

    @property
    def within(self) -> float:
        """The share of this weight's own sensitivity that lies in what is selected."""
        return self.chosen / self.sensitivity if self.sensitivity else 0.0  # None, or 0 of 0


class Overview(list[Line]):
    """A line for each weight; printed as a table, layers from the lowest up.

    A cell says how much of the weight is selected, and in brackets how much of the weight's sensitivity lies in that; the
    last columns how much of all weights' sensitivity lies in what is selected of the layer, and in what is left.
    """

    def __str__(self) -> str:
        table = [[cell.split("\n") for cell in row] for row in self.table()]
        rows = []
        for row in table:
            high = max(map(len, row))
            rows += zip(*([""] * (high - len(cell)) + cell for cell in row), strict=True)
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)) for row in rows]
        return "\n".join([*lines, *filter(None, [self.hold])])

    def table(self, brackets: bool = True) -> list[list[str]]:
        """The header, then a row for each layer; a heading's words stand on lines of their own."""
        layers, parts, cells = self.grid()
        names = [part.removesuffix(".weight") for part in parts]
        headings = [_short(name, names).replace(".", "\n") for name in names]
        rows = [["layer", *headings, "entries", *(["chosen", "left"] if self.scored else [])]]
        for layer in layers:
            row = Overview(line for line in self if line.layer == layer)
            chosen = sum(line.chosen for line in row.scored)
            shares = [chosen, sum(line.sensitivity for line in row.scored) - chosen] if row.scored else []
            totals = [f"{sum(line.selected_entries for line in row):,}", *map("{:.1%}".format, shares)]
            cell = [_cell(cells.get((layer, part)), brackets) for part in parts]
            rows.append([layer, *cell, *totals, *([""] * (len(rows[0]) - 1 - len(cell) - len(totals)))])
        return rows

    @property
    def scored(self) -> list[Line]:
        """The lines of the weights that have scores."""
        return [line for line in self if line.sensitivity is not None]

    @property
    def hold(self) -> str:
        """How much of the sensitivity the selected entries hold, in words; empty without scores."""
        selected, entries = (sum(getattr(line, what) for line in self.scored) for what in ("selected_entries", "entries"))
        share = sum(line.chosen for line in self.scored)
        return f"{selected:,} of {entries:,} entries hold {share:.1%} of the sensitivity" if self.scored else ""

    def grid(self) -> tuple[list[str], list[str], dict[tuple[str, str], Line]]:
        """Layers from the lowest up, modules in the model's order, and the line of each cell."""
        return (
            sorted({line.layer for line in self}, key=lambda layer: _ENDS.get(layer) or int(layer)),
            list(dict.fromkeys(line.part for line in self)),
            {line[:2]: line for line in self},
        )


def _cell(line: Line | None, brackets: bool) -> str:
    if line is None:
        return ""
    return f"{line.density:.1%}" + (f" ({line.within:.0%})" if brackets and line.sensitivity is not None else "")


def _short(part: str, parts: list[str]) -> str:
    """The shortest end of a dotted name that no other has."""
    words = part.split(".")
    ends = (".".join(words[i:]) for i in range(len(words) - 1, 0, -1))
    return next((end for end in ends if not any(f".{other}".endswith(f".{end}") for other in parts if other != part)), part)


def overview(selection: Selection, scores: Mapping[str, Tensor], model: nn.Module) -> Overview:
    """How much of each weight is selected, and how much of the sensitivity lies in that.

    Args:
        selection: as `budget` made it from these scores; of weights that have none, nothing but the entries is told.
        scores: weight name -> a score for each row, column or block.
        model: the model that has these weights.

    Raises:
        ValueError: if the selection or the scores do not fit the model, or each other.
    """
    depth, named = depths(model), weights(model)
    selection.check(named)
    if unknown := [name for name in scores if name not in named]:
        raise ValueError(f"overview: scores must be named after the model's weights, got {unknown[0]!r}")
    scores = {name: score.cpu().double() for name, score in scores.items()}
    everything = sum(score.sum().item() for score in scores.values()) or 1.0
    lines = Overview()
    for name in (name for name in named if name in scores or name in selection):
        entries, score = selection.get(name), scores.get(name)
        if entries is not None and score is not None and score.shape != (entries.units,):
            expected = f"of its {entries.units} {entries.kind}"
            raise ValueError(f"overview: the scores of {name!r} must be {expected}, got shape {tuple(score.shape)}")
        at, match = depth[name], _NUMBERED.search(name)
        layer = next((end for end, height in _ENDS.items() if at == height), None) or str(int(at))
        kind, taken, count = ("", 0, 0) if entries is None else (entries.kind, entries._held.numel(), entries.count)
        units = entries.units if score is None else len(score)
        lines.append(
            Line(
                layer, match[1] if match else name, name, kind, taken, units, count, named[name].numel(),
                *_shares(score, entries, everything),
            )
        )  # fmt: skip
    return lines


def _shares(score: Tensor | None, entries: Entries | None, everything: float) -> tuple[float | None, float | None]:
    if score is None:
        return None, None
    chosen = 0.0 if entries is None else score[entries.index.long().cpu()].sum().item()
    return score.sum().item() / everything, chosen / everything


def draw(lines: Overview, path: str | Path, title: str = "") -> None:
    """Writes two heat maps of layers x modules (.png, .svg, .pdf): the density selected, and where the sensitivity is.

    Raises:
        NotInstalled: without matplotlib.
    """
    figure(lines, title).savefig(path, dpi=120)


def figure(lines: Overview, title: str = "") -> Any:
    """The picture that `draw` writes; layers from the lowest up, as they stand on each other."""
    figure_class = needs("matplotlib.figure", "overview.draw").Figure
    layers, parts, cells = lines.grid()
    names = [part.removesuffix(".weight") for part in parts]
    headings = [_short(name, names).replace(".", "\n") for name in names]
    made = figure_class(figsize=(3.2 + 1.5 * max(4, len(parts)), 2.0 + 0.36 * len(layers)), layout="constrained")
    panels = {
        "entries selected, share of the weight": ("density", "{:.1%}"),
        "sensitivity, share of all (in brackets: selected of it)": ("sensitivity", "{:.1%} ({:.0%})"),
    }
    for axes, (label, (what, form)) in zip(made.subplots(1, 2), panels.items(), strict=True):
        shown = {place: share for place, line in cells.items() if (share := getattr(line, what)) is not None}
        most = max(shown.values(), default=0) or 1
        shares = [[shown.get((layer, part), math.nan) for part in parts] for layer in layers]
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=most, aspect="auto", origin="lower")
        for (layer, part), share in shown.items():
            axes.text(
                parts.index(part), layers.index(layer), form.format(share, cells[layer, part].within),
                color=_ink(image.to_rgba(share)), ha="center", va="center", fontsize=7,
            )  # fmt: skip
        axes.set_xticks(range(len(parts)), headings, fontsize=8)
        axes.set_yticks(range(len(layers)), layers)
        axes.set_title(label, fontsize=9, loc="left")
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        axes.set_ylabel("layer")
    made.suptitle(visible(title), x=0.01, ha="left", **DRAWN)
    return made


def _ink(color: Any) -> str:
    """Black or white, whatever is read better on a colour: by its relative luminance, as WCAG 2 has it."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in color[:3]]
    return "black" if linear[0] * 0.2126 + linear[1] * 0.7152 + linear[2] * 0.0722 > 0.179 else "white"
