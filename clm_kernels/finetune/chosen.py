"""What a run has chosen and what it has left: saved with it, read again, drawn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file, save

from ..files import write_atomically
from ..selecting.overview import Overview, draw
from ..selecting.pipeline import Choice
from ..selection import Selection
from .artifacts import PICTURE, SCORES, SELECTION


def save_choice(output: Path, choice: Choice) -> None:
    """Writes the selection, and the scores if there are any."""
    choice.selection.save(output / SELECTION)
    if choice.scores:
        tensors = {name: score.cpu().contiguous() for name, score in choice.scores.items()}
        write_atomically(output / SCORES, save(tensors, {"format": "pt"}))


def load_choice(output: Path) -> Choice:
    """What `save_choice` wrote."""
    selection = Selection.load(output / SELECTION)
    return Choice(selection, load_file(output / SCORES) if (output / SCORES).is_file() else {})


def draw_choice(output: Path, lines: Overview, say: Callable[[str], None]) -> None:
    """Draws where the sensitivity is and what is selected of it; says so where there is nothing to draw with."""
    if not lines.scored:
        return
    try:
        draw(lines, output / PICTURE, lines.hold)
    except ImportError as error:
        say(f"{PICTURE} left out: {error}")
