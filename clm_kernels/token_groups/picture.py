"""Token groups as a picture: a line for each class, its best groups side by side, dark where the association is strong."""

from __future__ import annotations

from pathlib import Path

from ..escaping import DRAWN, visible
from ..extras import needs
from .groups import TokenGroups

GROUPS, CLASSES = 6, 30  # at most, for people to read


def draw(groups: TokenGroups, path: str | Path) -> None:
    """Writes the picture (.png, .svg, .pdf): the classes with the strongest groups, if there are more than fit.

    Raises:
        NotInstalled: without matplotlib.
    """
    figure_class = needs("matplotlib.figure", "token_groups.draw").Figure
    strongest = sorted((label for label, own in groups.by_class.items() if own), key=lambda label: -groups.by_class[label][0].z)
    labels = [label for label in groups.by_class if label in strongest[:CLASSES]]
    highest = max((group.z for group in groups), default=1.0)
    figure = figure_class(figsize=(13, 1.2 + 0.34 * max(1, len(labels))), layout="constrained")
    axes = figure.subplots()
    for row, label in enumerate(labels):
        for column, group in enumerate(groups.by_class[label][:GROUPS]):
            shade = max(0.0, group.z / highest)
            axes.barh(row, 0.96, left=column, height=0.86, color=(1 - 0.75 * shade, 1 - 0.4 * shade, 1 - 0.55 * shade))
            text = group.text if len(group.text) <= 26 else group.text[:25] + "…"
            axes.text(column + 0.48, row, f"{visible(text)}  {group.z:.0f}", ha="center", va="center", fontsize=8, **DRAWN)
    axes.set_yticks(range(len(labels)), [f"{visible(label)} ({groups.sizes[label]:,})" for label in labels], fontsize=8, **DRAWN)
    axes.set_xticks([])
    axes.set_xlim(0, GROUPS)
    axes.set_ylim(max(1, len(labels)) - 0.5, -0.5)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    left_out = len(strongest) - len(labels)
    more = f"; {left_out} weaker labels left out" if left_out else ""
    axes.set_title(f"what tells the label: best groups by {groups.measure}, with their z-scores{more}", loc="left", fontsize=10)
    figure.savefig(path, dpi=120)
