"""``clm-kernels train`` and ``clm-kernels select``."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ..errors import require
from ..escaping import visible
from ..finetune.config import TrainConfig
from ..finetune.task_files import FILES, Tasks, by_key, by_task
from .console import Console
from .errors import OTHER, USER_INPUT, Stopped, code_of, one_line, stderr
from .options import config_options
from .quiet import quiet
from .told import Told

SELECTING = (
    "model", "train", "task", "text_column", "label_column", "tokens_column", "tags_column", "labels_column", "label_separator", "delimiter",
    "validation", "validation_fraction", "select", "density", "backward", "kind", "block", "layers", "per", "biases", "norms", "sensitivity_examples", "pooling",
    "bidirectional", "batch_size", "max_length", "dtype", "seed", "merge_tokens", "merge_by", "template", "skip_bad_rows",
)  # fmt: skip


@config_options(repeated=FILES)
def train(
    config: TrainConfig,
    files: dict[str, list[str]],
    run_file: Annotated[
        str, typer.Option("--config", help="A run.yaml to do again, with these options.", show_default=False)
    ] = "",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A key of run.yaml, as training.epochs=3."),
    ] = None,
) -> Told | None:
    """Fine-tune on a file of texts and their labels, or of words and their tags.

    Validation chooses what is kept. Leaves a delta (lora: PEFT's adapter, full: a checkpoint), report.html, run.yaml and more.
    Several tasks: --train NAME=FILE each.
    """
    quiet()
    plain, tasks = by_task(files)
    common, tasks = by_key(settings or [], tasks)
    config = _as_asked(config.beside(**plain, **dict.fromkeys(FILES if tasks else (), "")), run_file, common)
    if tasks or _resumes_tasks(config):
        return _several(config, tasks)
    from .. import finetune
    from ..finetune.artifacts import PAGE
    from ..finetune.outputs import is_main
    from . import show

    try:
        report = finetune.train(config)
    except KeyboardInterrupt as stop:
        raise (_stopped(config, stop) if is_main() else typer.Exit(code_of(stop))) from None
    if not is_main():
        return None
    console = Console()
    if report.selection:
        console.print(show.selection(report.selection, _drawn(config)))
    console.print(show.scores(report))
    if report.classes:
        console.print(show.classes(report))
    if report.active:
        console.print(show.active(report.active))
    console.print(show.summary(report))
    if report.search:
        console.print(show.search(report.search))
    if report.seeds:
        console.print(show.seeds(report.seeds, report.best_by))
    console.print(f"try it: clm-kernels predict --model {shlex.quote(config.run.output)} FILE", markup=False, soft_wrap=True)
    if (page := Path(config.run.output) / PAGE).is_file():
        console.print(f"look at it: {visible(str(page))}", markup=False, highlight=False, soft_wrap=True)
    return Told(asdict(report), show.essence(report, config.run.output))


def _several(config: TrainConfig, tasks: Tasks) -> Told:
    """Trains several tasks, and prints a table of them all; the exit code tells whether one has failed, and why."""
    from ..finetune.many.tasks import train_tasks
    from . import show

    try:
        trained = train_tasks(config, tasks or None)
    except KeyboardInterrupt as stop:
        raise _stopped(config, stop) from None
    console, output = Console(), config.run.output
    console.print(show.tasks(trained.table()))
    for name, error in trained.failed.items():
        stderr.print(f"{name} failed: {one_line(error)}", markup=False)
    served = " ".join(f"--task {shlex.quote(f'{name}={Path(output) / name}')}" for name in trained.reports)
    if trained.failed:
        what = f"to train what failed: clm-kernels train --resume --output {shlex.quote(output)}"
        stderr.print(what if served else "no task is trained; nothing is kept", markup=False)
    else:
        base = shlex.quote(config.data.model or next(iter(trained.reports.values())).config["model"])
        console.print(f"try them: clm-kernels serve --model {base} {served}", markup=False, soft_wrap=True)
    mistakes = all(isinstance(error, ValueError) for error in trained.failed.values())
    code = (USER_INPUT if mistakes else OTHER) if trained.failed else 0
    lines = [f"{name}: {show.essence(one, str(Path(output) / name))}" for name, one in trained.reports.items()]
    failed = {name: one_line(error) for name, error in trained.failed.items()}
    document = {"tasks": {name: asdict(one) for name, one in trained.reports.items()}, "failed": failed}
    return Told(document, "\n".join([*lines, *(f"{name}: failed: {message}" for name, message in failed.items())]), code)


def _drawn(config: TrainConfig) -> str:
    """The kind of the units that are drawn by chance; empty if they are chosen."""
    return config.selecting.resolved().kind if config.selecting.by_chance else ""


def _resumes_tasks(config: TrainConfig) -> bool:
    if not config.run.resume:
        return False
    from ..finetune.outputs import tasks_in

    return bool(tasks_in(Path(config.run.output)))


def _stopped(config: TrainConfig, stop: KeyboardInterrupt) -> Stopped:
    return Stopped(_after_interruption(config), code_of(stop))


def _as_asked(config: TrainConfig, run_file: str, settings: list[str]) -> TrainConfig:
    """The options of the file, before these the settings, before these the options of the command line."""
    if not run_file and not settings:
        return config
    from ..finetune.keys import parse_settings
    from ..finetune.outputs import is_main
    from ..finetune.run_file import read_run
    from ..finetune.saying import say_nothing, to_stderr

    said = {name: value for name, value in config.options().items() if name in config.given}
    options = parse_settings(settings) | said
    return read_run(run_file, to_stderr if is_main() else say_nothing, **options) if run_file else TrainConfig(**options)


def _after_interruption(config: TrainConfig) -> str:
    from ..finetune.checkpoints import last_checkpoint
    from ..finetune.outputs import CHECKPOINTS, TRIALS, inner_folders

    output = Path(config.run.output)
    checkpoint = last_checkpoint(output / CHECKPOINTS)
    several = bool(inner_folders(output)) or (output / TRIALS).is_file()
    if checkpoint is None and not several:
        return "stopped before the first checkpoint; nothing is kept"
    kept = f"{checkpoint.name} is" if checkpoint else "what is done of the runs is"
    return f"stopped; {kept} kept; to go on: clm-kernels train --resume --output {shlex.quote(config.run.output)}"


@config_options(SELECTING)
def select(
    config: TrainConfig,
    output: Annotated[Path, typer.Option(help="File to save it in, for `train --selection`.", show_default=False)] = Path(),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
) -> Told:
    """Choose what `train` would train, print it and save it, and train nothing."""
    wanted = output != Path()
    require(not wanted or overwrite or not output.exists(), "select", "output", "a new file (or give --overwrite)", f"'{output}'")
    quiet()
    from ..finetune.beginning import choose_selection
    from . import show

    selection, lines = choose_selection(config)
    table = show.selection((line._asdict() for line in lines), _drawn(config))
    Console().print(table)
    if wanted:
        selection.save(output)
        print(f"saved: {visible(str(output))}")
    document = {
        "entries": selection.count,
        "weights": [line._asdict() for line in lines],
        "saved": str(output) if wanted else None,
    }
    return Told(document, table if isinstance(table, str) else str(table.title))
