"""``clm-kernels tokens --active``: which words carry the gradient in a run."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from ..errors import require
from ..extras import needs
from .console import Console, escaped, folded
from .told import Told

SENTENCES = 14  # in the picture
LABEL = 24  # characters of one in a line


def show_active(run: Path, top: int, minimum: int, longest: int, picture: Path | None) -> Told:
    """Prints the words that a run's active tokens were, and draws them and some sentences.

    Raises:
        ValueError: if the folder is no run's, or that of a run whose backward took every token.
        NotInstalled: for a picture without matplotlib.
    """
    if picture is not None:
        needs("matplotlib.figure", "tokens")
    from ..finetune.artifacts import ACTIVE
    from ..finetune.words.table import ActiveWords

    there = (run / ACTIVE).is_file()
    require(
        there, "tokens", "active", "the folder of a finished run of `train --energy 0.99`, or another below 1", f"{str(run)!r}"
    )
    words = ActiveWords.load(run / ACTIVE)
    odds = _odds(run, minimum, longest)
    console = Console()
    console.print(_table(words, odds, top))
    if picture is not None:
        from ..finetune.words.picture import draw
        from ..finetune.words.sentences import sentences

        draw(words, sentences(run, SENTENCES), picture, odds)
        console.print(f"drawn: {picture}", markup=False)
    return Told(asdict(words) | {"z": odds}, "\n".join(f"{label}: {', '.join(best)}" for label, best in words.best().items()))


def _table(words, odds: dict[str, dict[str, float]], top: int) -> Table:
    from ..finetune.words.picture import percent

    known = ", log-odds z" if odds else ""
    title = f"words by the share of the label's gradient that they hold: per cent in the first epoch → in the last{known}"
    table = Table("label", title, show_lines=True)
    for label in words.by_label:
        said = []
        for word in [*words.words(label, top), words.rest(label)]:
            if word is not None:
                z = odds.get(label, {}).get(word.word)
                after = f" (z {z:.1f})" if z is not None else ""
                said.append(f"[bold]{escaped(word.word)}[/] {percent(word.early)} → {percent(word.late)}{after}")
        table.add_row(escape(folded(label, LABEL)), ", ".join(said) or "-")
    return table


def _odds(run: Path, minimum: int, longest: int) -> dict[str, dict[str, float]]:
    """Label -> word -> z-score of the token group that it is; nothing if the run's training data is gone."""
    from ..finetune.data import find_task, read_split
    from ..finetune.models import load_tokenizer
    from ..finetune.outputs import recorded_config
    from ..token_groups import token_groups

    data = recorded_config(run).data
    if not Path(data.train).is_file():
        return {}
    task = find_task(data)
    split = read_split(data.train, task, data)
    found = token_groups(task.pairs(split), load_tokenizer(run, task), minimum=minimum, longest=longest, top=10**6)
    return {label: {group.text: group.z for group in groups} for label, groups in found.by_class.items()}
