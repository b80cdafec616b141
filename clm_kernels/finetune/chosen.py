"""What a run has chosen and what it has left: saved with it, read again, drawn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..selecting.overview import Overview, draw
from ..selecting.pipeline import Choice
from ..selection import Selection
from ..tensors import read_tensors, write_tensors
from .artifacts import PICTURE, SCORES, SELECTION

FORMAT = "clm_kernels.scores/1"


def save_choice(output: Path, choice: Choice) -> None:
    """Writes the selection, and the scores if there are any."""
    choice.selection.save(output / SELECTION)
    if choice.scores:
        write_tensors(output / SCORES, choice.scores, {"format": FORMAT})


def load_choice(output: Path) -> Choice:
    """What `save_choice` wrote."""
    selection = Selection.load(output / SELECTION)
    return Choice(selection, read_tensors(output / SCORES, "load_choice", FORMAT)[0] if (output / SCORES).is_file() else {})


def draw_choice(output: Path, lines: Overview, say: Callable[[str], None]) -> None:
    """Draws where the sensitivity is and what is selected of it; says so where there is nothing to draw with."""
    if not lines.scored:
        return
    try:
        draw(lines, output / PICTURE, lines.hold)
    except ImportError as error:
        say(f"{PICTURE} left out: {error}")
