"""Token groups as a picture: a line for each class, its best groups side by side, dark where the association is strong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..escaping import DRAWN, visible
from ..extras import needs
from .groups import TokenGroups

GROUPS, CLASSES = 6, 30  # at most, for people to read
CELL, NAME, ROW, TOP, EDGE = 128.0, 180.0, 24.0, 40.0, 6.0  # points; of a name the most
SIZE = 8.0


def draw(groups: TokenGroups, path: str | Path) -> None:
    """Writes the picture (.png, .svg, .pdf): the classes with the strongest groups, if there are more than fit.

    Raises:
        NotInstalled: without matplotlib.
    """
    figure(groups).savefig(path, dpi=120)


def figure(groups: TokenGroups) -> Any:
    """The picture that `draw` writes; a class that no group tells has a line that says so."""
    strongest = sorted(groups.by_class, key=lambda label: -max((group.z for group in groups.by_class[label]), default=0.0))
    shown = set(strongest[:CLASSES])
    labels = {label: f" ({groups.sizes[label]:,})" for label in groups.by_class if label in shown}
    named = [fitted(visible(label), NAME - width(count)) + count for label, count in labels.items()]
    left = max(map(width, named), default=0.0) + 2 * EDGE
    wide, high = left + GROUPS * CELL + EDGE, TOP + ROW * max(1, len(labels))
    made = needs("matplotlib.figure", "token_groups.draw").Figure(figsize=(wide / 72, high / 72))
    axes = made.add_axes((left / wide, 0, GROUPS * CELL / wide, 1 - TOP / high))
    highest = max((group.z for group in groups), default=1.0)
    for row, label in enumerate(labels):
        best = groups.by_class[label][:GROUPS]
        for column, group in enumerate(best):
            shade = max(0.0, group.z / highest)
            axes.barh(row, 0.96, left=column, height=0.86, color=(1 - 0.75 * shade, 1 - 0.4 * shade, 1 - 0.55 * shade))
            z = f"  {group.z:.0f}"
            text = fitted(visible(group.text), 0.92 * CELL - width(z)) + z
            axes.text(column + 0.48, row, text, ha="center", va="center", fontsize=SIZE, **DRAWN)
        if not best:
            axes.text(0.02, row, "no group of words tells it", va="center", fontsize=SIZE, color="#777777")
    axes.set_yticks(range(len(labels)), named, fontsize=SIZE, **DRAWN)
    axes.set_xticks([])
    axes.set_xlim(0, GROUPS)
    axes.set_ylim(max(1, len(labels)) - 0.5, -0.5)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    left_out = len(strongest) - len(labels)
    more = f"; {left_out} weaker labels left out" if left_out else ""
    axes.set_title(f"what tells the label: best groups by {groups.measure}, with their z-scores{more}", loc="left", fontsize=10)
    return made


def width(text: str) -> float:
    """Of a drawn text, in points."""
    font = needs("matplotlib.font_manager", "token_groups.draw").FontProperties(size=SIZE)
    return needs("matplotlib.textpath", "token_groups.draw").text_to_path.get_text_width_height_descent(text, font, False)[0]


def fitted(text: str, room: float) -> str:
    """The text, with its middle left out if there is no room for it, as names that are alike differ at their ends."""
    kept = len(text)
    while (
        width(shown := text if kept == len(text) else f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}") > room
        and kept
    ):
        kept -= 1
    return shown
