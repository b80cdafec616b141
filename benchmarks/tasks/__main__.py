"""``python -m benchmarks.tasks``: runs the comparison, or what is missing of it, then writes its table and pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from clm_kernels.demo import model_directory

from ..common import RESULTS
from .methods import available, check_packages
from .plan import Plan
from .store import Settings, Store
from .tasks import TASKS

Size = Annotated[int, typer.Option(min=0, help="Examples of this part; 0: all of them.")]


def names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def settings_of(option: list[str]) -> dict[str, object]:
    """``["density=0.01", "biases=false"]`` as fields of TrainConfig; what is no JSON is text."""
    read = {}
    for text in option:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"tasks: option must be NAME=VALUE, got {text!r}")
        try:
            read[name] = json.loads(value)
        except ValueError:
            read[name] = value
    return read


def main(
    tasks: Annotated[str, typer.Option(help="Tasks, separated by commas.")] = ",".join(TASKS),
    methods: Annotated[str, typer.Option(help="Methods, separated by commas; all that can run if not given.")] = "",
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of each method.")] = 3,
    headline_seeds: Annotated[int, typer.Option(min=1, help="Seeds of full fine-tuning and of ours.")] = 5,
    train_size: Size = 500,
    validation_size: Size = 300,
    test_size: Size = 1000,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training data.")] = 3,
    batch_size: Annotated[int, typer.Option(min=1, help="Examples in a batch.")] = 8,
    max_length: Annotated[int, typer.Option(min=8, help="Tokens after which a text is cut off.")] = 128,
    tune_on: Annotated[str, typer.Option(help="Tasks that choose the learning rates; each: every task its own.")] = (
        "banking77,snips_slots"
    ),
    option: Annotated[
        list[str], typer.Option(help="NAME=VALUE, a field of TrainConfig for all methods, e.g. density=0.01.")
    ] = (),
    fresh: Annotated[bool, typer.Option("--fresh", help="Rows and seeds that no choice has seen, as CLAIM.md has it.")] = False,
    model: Annotated[str, typer.Option(help="Directory of the base model. (default: all-MiniLM-L6-v2)")] = "",
    results: Annotated[Path, typer.Option(help="Folder of the results.")] = RESULTS / "tasks",
    jobs: Annotated[int, typer.Option(min=1, help="Cells that run side by side and share the processor's cores.")] = 1,
    budget_minutes: Annotated[
        float | None, typer.Option(min=0, help="Starts no cell that would end after so many minutes.")
    ] = None,
    retry: Annotated[bool, typer.Option(help="Try those again that could not run.")] = False,
    draw_only: Annotated[bool, typer.Option(help="Write table and pictures of what there is, and run nothing.")] = False,
) -> None:
    """Runs the comparison, or what is missing of it, then writes its table and pictures."""
    from .pictures import draw
    from .table import write_table

    console = Console()
    try:
        chosen, left_out = available(names(methods))
        if not draw_only:
            check_packages(chosen)
        plan = Plan(names(tasks), chosen, seeds, max(seeds, headline_seeds), None if tune_on == "each" else names(tune_on))
        settings = Settings(
            model=model or str(model_directory()), train_size=train_size or None, validation_size=validation_size or None,
            test_size=test_size or None, epochs=epochs, batch_size=batch_size, max_length=max_length,
            options=settings_of(list(option)), fresh=fresh,
        )  # fmt: skip
    except ValueError as error:
        raise SystemExit(str(error)) from error
    for name, reason in left_out.items():
        console.print(f"left out: {name}, which {reason}", highlight=False)
    store = Store(results, settings)
    if retry:
        console.print(f"{store.forget_failures()} to try again")
    if not draw_only:
        from .run import Runner

        done = Runner(plan, store, jobs, None if budget_minutes is None else 60 * budget_minutes).run()
        console.print("the grid is done" if done else "the time is up; the same command goes on from here")
    if not store.all():
        raise SystemExit(f"tasks: there must be results of these settings in {results}, got none")
    for path in (write_table(store, plan, left_out), *draw(store, plan)):
        console.print(f"written: {path}")


if __name__ == "__main__":
    typer.run(main)
