"""``clm-kernels train`` and ``clm-kernels select``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from ..errors import require
from ..escaping import visible
from ..finetune.config import TrainConfig
from .console import Console
from .errors import code_of, fail
from .options import config_options
from .quiet import quiet

SELECTING = (
    "model", "train", "task", "text_column", "label_column", "tokens_column", "tags_column", "labels_column", "label_separator", "delimiter",
    "validation", "validation_fraction", "select", "density", "backward", "kind", "block", "layers", "per", "biases", "norms", "sensitivity_examples", "pooling",
    "bidirectional", "batch_size", "max_length", "dtype", "seed", "merge_tokens", "merge_by", "template", "skip_bad_rows",
)  # fmt: skip


@config_options()
def train(config: TrainConfig) -> None:
    """Fine-tune a model on a labelled file: columns text and label, text and labels, or tokens and tags.

    The best checkpoint is chosen by validation; the test data is scored once, at the end.

    Leaves a small delta (PEFT's adapter with --method lora, a whole checkpoint with --method full), the tokenizer and
    report.json in the output folder.
    """
    quiet()
    from .. import finetune
    from ..finetune.outputs import is_main
    from . import show

    try:
        report = finetune.train(config)
    except KeyboardInterrupt as stop:
        raise (fail(_after_interruption(config), code_of(stop)) if is_main() else typer.Exit(code_of(stop))) from None
    if not is_main():
        return
    console = Console()
    if report.selection:
        console.print(show.selection(report.selection))
    console.print(show.scores(report))
    if report.classes:
        console.print(show.classes(report))
    if report.active:
        console.print(show.active(report.active))
    console.print(show.summary(report))
    console.print(f"try it: clm-kernels predict --model {shlex.quote(config.run.output)} FILE", markup=False, soft_wrap=True)


def _after_interruption(config: TrainConfig) -> str:
    from ..finetune.checkpoints import last_checkpoint
    from ..finetune.outputs import CHECKPOINTS

    checkpoint = last_checkpoint(Path(config.run.output) / CHECKPOINTS)
    if checkpoint is None:
        return "stopped before the first checkpoint; nothing is kept"
    return f"stopped; {checkpoint.name} is kept; to go on: clm-kernels train --resume --output {shlex.quote(config.run.output)}"


@config_options(SELECTING)
def select(
    config: TrainConfig,
    output: Annotated[Path, typer.Option(help="File to save it in, for `train --selection`.", show_default=False)] = Path(),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
) -> None:
    """Choose what `train` would train, print it and save it, and train nothing."""
    wanted = output != Path()
    require(not wanted or overwrite or not output.exists(), "select", "output", "a new file (or give --overwrite)", f"'{output}'")
    quiet()
    from ..finetune.recipe import choose_selection
    from . import show

    selection, lines = choose_selection(config)
    Console().print(show.selection(line._asdict() for line in lines))
    if wanted:
        selection.save(output)
        print(f"saved: {visible(str(output))}")
