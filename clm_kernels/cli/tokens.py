"""``clm-kernels tokens``: which words tell the label."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from ..errors import require
from ..extras import needs
from ..finetune.config import TrainConfig
from .active import show_active
from .console import Console, escaped, folded
from .options import config_options
from .quiet import quiet
from .told import Told

READING = (
    "model", "train", "task", "text_column", "label_column", "tokens_column", "tags_column", "labels_column",
    "label_separator", "delimiter", "skip_bad_rows",
)  # fmt: skip
ESSENCE = 3  # groups of a label
LABEL = 24  # characters of one in a line


@config_options(READING)
def tokens(
    config: TrainConfig,
    measure: Annotated[str, typer.Option(help="What ranks them: log-odds, chi-squared or mutual-information.")] = "log-odds",
    minimum: Annotated[int, typer.Option(help="Texts (or words) that must have a group.")] = 5,
    longest: Annotated[int, typer.Option(help="Pieces of a group, at most.")] = 4,
    top: Annotated[int, typer.Option(help="Groups of each label that are shown and saved.")] = 10,
    output: Annotated[Path | None, typer.Option(help="JSON file to save them in.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Picture of them: .png, .svg or .pdf.")] = None,
    active: Annotated[
        Path | None, typer.Option(help="Output of train with an energy below 1: the words that carry its gradient instead.")
    ] = None,
) -> Told:
    """Print the runs of words that say most about each label; --model is needed for its tokenizer alone.

    With --active, the words that held most of each label's gradient in a run, early and late, beside their log-odds; the
    picture has sentences of its test data too.
    """
    if active is not None:
        for name, given in {**config.options(), "output": output}.items():
            default = TrainConfig().options().get(name) if name != "output" else None
            require(given == default, "tokens", name, "left out with active, whose run knows it", repr(given))
        require(measure == "log-odds", "tokens", "measure", "log-odds with active", repr(measure))
        quiet()
        return show_active(active, top, minimum, longest, picture)
    config.check(("model", "train"))
    quiet()
    from ..finetune.data import find_task, read_split
    from ..finetune.models import check_directory, load_tokenizer
    from ..finetune.parts import with_files
    from ..token_groups import picture as drawing
    from ..token_groups import token_groups

    if picture is not None:
        needs("matplotlib.figure", "tokens")
    check_directory("tokens", config.data.model)
    with with_files(config.data) as data:
        task = find_task(data)
        split = read_split(data.train, task, data)
    tokenizer = load_tokenizer(config.data.model, task)
    found = token_groups(task.pairs(split), tokenizer, measure=measure, minimum=minimum, longest=longest, top=top)

    of = task.unit
    table = Table("label", f"groups by {measure}: z-score, {of} with it of the label and of all", show_lines=True)
    for label, groups in found.by_class.items():
        said = ", ".join(f"[bold]{escaped(g.text)}[/] {g.z:.1f} ({g.count}/{g.total})" for g in groups) or "-"
        table.add_row(f"{escape(folded(label, LABEL))}\n[dim]{found.sizes[label]:,} {of}[/]", said)
    console = Console()
    console.print(table)
    if output is not None:
        found.save(output)
        console.print(f"saved: {output}", markup=False)
    if picture is not None:
        drawing.draw(found, picture)
        console.print(f"drawn: {picture}", markup=False)
    best = (f"{label}: {', '.join(group.text for group in groups[:ESSENCE]) or '-'}" for label, groups in found.by_class.items())
    return Told(found.as_dict(), "\n".join(best))
