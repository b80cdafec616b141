"""`train`: from a labelled file and a base model to a fine-tuned classifier, in one call."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from ..errors import require
from ..extras import needs
from ..models.conform import recipe_of
from ..recipe import Recipe
from ..selecting.overview import Overview, overview
from ..selection import Selection
from .advice import advice_when_out_of_memory
from .artifacts import ACTIVE, CHECKPOINTS, COST_PICTURE, GROUPS, PAGE, REPORT, RUN_FILE
from .beforehand import check_beforehand
from .beginning import Begun, begin
from .checkpoints import drop_checkpoints
from .chosen import draw_choice, load_choice, save_choice
from .circumstances import alike
from .config import PATHS, REQUIRED, TrainConfig
from .cost_picture import draw_cost
from .disks import advice_when_a_disk_is_full
from .dividing import check_launched
from .fitting import fit
from .hub import as_begun, on_hub, pinned, with_address
from .interruption import tidied_up_after, unstoppable
from .judging.keeping import CONFIG_KEY, DETAIL
from .locks import locked
from .many import several_runs
from .methods import Prepared, check, method_of
from .models import pooling_for
from .outputs import check_output, is_main, run_folder, write_folder
from .page.writing import write_page
from .parts import with_files
from .pricing import as_found, within
from .processes.company import Company, in_company
from .report import Report, machine
from .run_file import begun_with, load_run_file, mend_run_file, save_run_file
from .saying import Say, say_nothing, to_stderr
from .sharing import Shared
from .trainer import arguments
from .words.reading import Reader
from .words.recording import Recorder
from .written import files_of


def train(config: TrainConfig, say: Say = to_stderr, shared: Shared | None = None) -> Report:
    """Trains a classifier as `config` says, and leaves it in the output folder.

    Everything is checked before a file is made. The best checkpoint is the one with the best validation score; the
    test data is scored once, after that choice. Methods sparse and head leave a `Delta` (``delta.safetensors``),
    lora leaves an adapter in PEFT's format, full a whole checkpoint; beside it stand the config, the tokenizer, the
    selection, ``report.json`` and ``report.html``; where a sensitivity was measured, its scores, and if matplotlib is installed a picture
    of what they chose and left. Checkpoints are for resuming: they go when all is written, unless the config keeps them.

    Under torchrun process 0 alone writes and says anything; the others' reports lack the sizes of what it has written, and
    the calibration.

    Args:
        config: what to train on what, and how.
        say: takes a line about the progress; the standard error by default.
        shared: what runs on the same base have in common, as `train_tasks` gives it; results do not depend on it.

    Raises:
        ValueError: for anything in the config or the files that cannot be right.
        NotInstalled: without accelerate or datasets; if the method is lora, without peft.
        RuntimeError: without memory or disk left.
        Interrupted: a KeyboardInterrupt, after Ctrl-C, SIGTERM or SIGHUP, with a checkpoint to resume from.
    """
    say = say if is_main() else say_nothing
    if several := several_runs(config):
        return several(_checked(config, say), say, partial(train, shared=shared))
    with in_company() as company:
        with company.all_or_none():
            config = _checked(config, say)
        began = time.perf_counter()
        with ExitStack() as held:
            with company.all_or_none():
                run = begin(*held.enter_context(_opened(config, say)), shared)
            company.check_alike(alike(run.config, run.circumstances, run.output, run.checkpoint))
            return _train(run, say, {name: config.options()[name] for name in PATHS}, company, began)


def _checked(config: TrainConfig, say: Say) -> TrainConfig:
    """The config, with the commit that its data has on a hub, so that the run file says which was read."""
    check(config, ("output",) if config.run.resume else REQUIRED)
    check_beforehand(config)
    check_launched(config)
    half = config.training.precision == "fp16" and not torch.accelerator.is_available()
    require(not half, "train", "precision", "float32 or bf16 on a CPU, where fp16 changes nothing", "'fp16'")
    for package in ("accelerate", "datasets", "filelock"):
        needs(package, "train")
    train, begun = config.data.train, Path(config.run.output) / RUN_FILE
    if not on_hub(train):
        return config
    resumed = config.run.resume and begun.is_file()
    return config.replace(
        train=as_begun(train, str(load_run_file(begun).options.get("train", "")), say) if resumed else pinned(train)
    )


@contextmanager
def _opened(config: TrainConfig, say: Say) -> Iterator[tuple[TrainConfig, Say, Path | None]]:
    """What `begin` takes; the output folder is held, and errors are told so that they help."""
    output = Path(config.run.output)
    with tidied_up_after(), locked(output) if is_main() else nullcontext(), with_files(config.data) as data:
        config, checkpoint = check_output(config.replace(data=data), say)
        method_of(config).check_packages("train")
        with advice_when_out_of_memory(config), advice_when_a_disk_is_full(output):
            yield config, say, checkpoint


def begin_report(
    run: Begun, selection: Selection, prepared: Prepared, parameters: int, seconds: float, lines: Overview | None = None
) -> Report:
    """The report before training; `parameters` is what the model has unpatched, `seconds` what choosing has taken.

    Args:
        lines: what was chosen and left; by default what the selection tells by itself.
    """
    lines = overview(selection, {}, run.loaded.model) if lines is None else lines
    return Report(
        config=run.config.options(), data=run.corpus.record, labels=run.corpus.label_names,
        selection=[line._asdict() for line in lines], trained=prepared.trained, parameters=parameters,
        best_by=run.args.metric_for_best_model or "", max_length=run.limit, cut={name: split.cut for name, split in run.splits.items()},
        seconds={"selecting": seconds}, made_on=machine(run.args.device), merged=run.merged,
        windows={name: cut.told() for name, split in run.splits.items() if (cut := split.windows)},
    )  # fmt: skip


def _train(run: Begun, say: Say, paths: Mapping[str, str], company: Company, began: float) -> Report:
    config, loaded, output, checkpoint = run.config, run.loaded, run.output, run.checkpoint
    started = time.perf_counter()
    groups = None if checkpoint else run.method.find_groups(config, loaded, run.corpus.train)
    choice = load_choice(output) if checkpoint else run.method.choose(config, loaded, run.splits["train"], groups)
    seconds = time.perf_counter() - started
    company.check_selection(choice.selection)
    if groups is not None and not groups and choice.scores:
        say("no run of words tells a label: the units are scored by all tokens")
    minutes: dict[str, Any] = {}
    shares = as_found(config.training.shares)
    if config.training.minutes is not None:
        config, minutes, shares = within(config, loaded, choice.selection, run.splits, run.task, run.args, began, say)
        run = replace(run, config=config, args=arguments(config.training, config.run, run.args.metric_for_best_model or ""))
    cost = _counted(run, choice.selection, say)
    set_seed(config.run.seed)
    parameters, lines = loaded.model.num_parameters(), overview(*choice, loaded.model)
    prepared = run.method.prepare(loaded.model, config, choice.selection, head=loaded.head, extension=loaded.extension)
    report = begin_report(run, choice.selection, prepared, parameters, seconds, lines)
    report.cost, report.minutes = cost, minutes
    if checkpoint:
        say(f"resuming after {checkpoint.name}, with the options that the run was begun with")
    files = files_of(run.method, loaded, bool(choice.scores), bool(groups)) if is_main() else ()
    with run_folder(config, run.corpus.record, run.asked, checkpoint, files):
        if is_main() and not checkpoint:
            save_run_file(output / RUN_FILE, run.resolved.replace(**paths), run.circumstances["versions"])
            save_choice(output, choice)
            draw_choice(output, lines, say)
            if groups:
                groups.save(output / GROUPS)
        if is_main() and checkpoint:
            mend_run_file(output / RUN_FILE, run.resolved, run.circumstances["versions"], say)
        with _recording(run, prepared, say) as recorder:
            scored = fit(run, prepared, report, say, *filter(None, [recorder]), shares=shares)
        if is_main():
            words = recorder.words(config.training.energy) if recorder else None
            if words:
                words.save(output / ACTIVE)
                report.words = words.best()
            if scored.scope:
                scored.scope.save(output)
            begun = begun_with(output / RUN_FILE, run.resolved)
            report.data = with_address(report.data, TrainConfig(**begun).options())
            if found := ",".join(map(repr, minutes.get("shares", []))):
                save_run_file(output / RUN_FILE, TrainConfig(**begun | {"shares": found}), run.circumstances["versions"])
            if "asked" in minutes:
                minutes["paid"] = (time.perf_counter() - began) / 60
            _save(run, prepared, report)
            draw_cost(report, output / COST_PICTURE, say)
            write_page(output / PAGE, report, scored, words, say)
        else:
            run.method.help_to_save(prepared)
    if is_main():
        with unstoppable():  # the report says that all is done, and so it is
            report.save(output / REPORT)
            if not config.run.keep_checkpoints:
                drop_checkpoints(output / CHECKPOINTS)
    return report


def _counted(run: Begun, selection: Selection, say: Say) -> dict[str, Any]:
    try:
        return run.method.cost(run.config, run.loaded, selection, run.splits["train"])
    except ValueError as error:
        require(run.config.training.cost is None, "train", "cost", "left out for this model", error)
        say(f"the backward's FLOPs are not counted: {error}")
        return {}


def _recording(run: Begun, prepared: Prepared, say: Say) -> AbstractContextManager[Recorder | None]:
    """Records which words carry the gradient, where that is told by active tokens; of several processes the one that writes."""
    active = getattr(prepared.handle, "active", None)
    by_one_energy = run.config.training.cost is None  # and a token that is drawn by chance says little of a word
    in_place = not run.config.training.packing  # words are found by their tokens' places in the padded batch
    one_label = not run.task.several  # whose words these are
    if not active or active.noise or not by_one_energy or not in_place or not one_label or not is_main():
        return nullcontext()
    read = Reader(run.task, run.loaded.tokenizer, run.splits["train"], run.limit, run.config.data.template)
    return Recorder(run.loaded.model, active, read, bool(run.config.training.patience), run.checkpoint, say)


def _save(run: Begun, prepared: Prepared, report: Report) -> None:
    """The result, whole or not at all."""
    data, method, model, output = run.config.data, run.method, run.loaded.model, run.output
    run.loaded.tokenizer.model_max_length = run.limit
    details = {"config": run.config.portable(), "best": report.best, "test": report.test, "made_on": report.made_on}
    details[DETAIL] = getattr(model.config, CONFIG_KEY)
    pooling = pooling_for(data, run.task)
    told = Recipe(run.task.name, Path(data.model).name, run.limit, pooling, template=data.template, details=details)
    recipe = recipe_of(model, told)
    write_folder(output, lambda folder: method.save(folder, prepared, run.loaded, report.labels, recipe))
    if (left := output / method.leaves).is_file():
        report.sizes[method.called] = left.stat().st_size
    report.sizes["checkpoint"] = sum(tensor.nbytes for tensor in {id(p): p for p in model.parameters()}.values())
