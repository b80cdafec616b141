"""`train`: from a labelled file and a base model to a fine-tuned classifier, in one call."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PrinterCallback, ProgressCallback, TrainerCallback, TrainingArguments, set_seed

from ..errors import require
from ..extras import needs
from ..models.conform import recipe_of
from ..models.packing import check_packing
from ..models.recomputing import check_checkpointing, checkpoint_layers, recompute_norms
from ..models.structure import number_of_layers
from ..recipe import Recipe
from ..selecting.overview import Overview, overview
from ..selection import Selection
from .advice import advice_when_out_of_memory
from .artifacts import ACTIVE, CHECKPOINTS, COST_PICTURE, GROUPS, PAGE, REPORT, RUN_FILE
from .balancing import check_balance, drawing_chances, label_weights
from .checkpoints import Sealing, drop_checkpoints
from .chosen import draw_choice, load_choice, save_choice
from .circumstances import alike, check_circumstances, circumstances
from .config import PATHS, REQUIRED, TrainConfig
from .cost_picture import draw_cost
from .data import Corpus, load_data
from .divided import told, trainer_for
from .dividing import check_launched
from .encode import Encoded
from .hub import on_hub, pinned
from .interruption import Interruption, tidied_up_after
from .judging.keeping import CONFIG_KEY, DETAIL
from .locks import locked
from .manifest import read_manifest
from .many import several_runs
from .merging import merge_tokens
from .methods import Method, Prepared, check, method_of, resolved
from .models import Loaded, limited_by, load_base, longest, pooling_for
from .outputs import advice_when_a_disk_is_full, beside, check_output, is_main, run_folder, write_folder
from .pacing import Pace, by_cost
from .packed import Packed
from .page.writing import write_page
from .parts import with_files
from .pricing import Shares, as_found, within
from .processes.company import Company, in_company
from .replaying import replaying
from .report import Report, machine, validations
from .run_file import save_run_file
from .saying import say_cuts, say_data, say_nothing, to_stderr
from .scoring import Scored, score_best
from .shares import ActiveShares, spent
from .sharing import Shared
from .tasks import Task
from .teaching import Teaching, chances_within, lines
from .trainer import Bar, Progress, arguments, early_stopping
from .windows import check_cuts
from .words.reading import Reader
from .words.recording import Recorder

Say = Callable[[str], None]


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
    with in_company() as company:
        with company.all_or_none():
            _check(config)
            if on_hub(config.data.train):  # so that the run file says which of its commits was read
                config = config.replace(train=pinned(config.data.train))
        if several := several_runs(config):
            return several(config, say, partial(train, shared=shared))
        say, began = say if is_main() else say_nothing, time.perf_counter()
        with ExitStack() as held:
            with company.all_or_none():
                run = begin(*held.enter_context(_opened(config, say)), shared)
            company.check_alike(alike(run.config, run.circumstances, run.output))
            return _train(run, say, {name: config.options()[name] for name in PATHS}, company, began)


def _check(config: TrainConfig) -> None:
    check(config, ("output",) if config.run.resume else REQUIRED)
    check_launched(config)
    half = config.training.precision == "fp16" and not torch.accelerator.is_available()
    require(not half, "train", "precision", "float32 or bf16 on a CPU, where fp16 changes nothing", "'fp16'")
    for package in ("accelerate", "datasets", "filelock"):
        needs(package, "train")


@contextmanager
def _opened(config: TrainConfig, say: Say) -> Iterator[tuple[TrainConfig, Say, Path | None]]:
    """What `begin` takes; the output folder is held, and errors are told so that they help."""
    output = Path(config.run.output)
    with tidied_up_after(), locked(output) if is_main() else nullcontext(), with_files(config.data) as data:
        config, checkpoint = check_output(config.replace(data=data), say)
        method_of(config).check_packages("train")
        with advice_when_out_of_memory(config), advice_when_a_disk_is_full(output):
            yield config, say, checkpoint


def choose_selection(config: TrainConfig) -> tuple[Selection, Overview]:
    """The selection that `train` would make with this config, and what it leaves; nothing is trained or written.

    Raises:
        ValueError: as `train`.
    """
    check(config, ("model", "train"))
    method = method_of(config)
    require(method.selects, "choose_selection", "method", "one that selects, as 'sparse'", repr(method.name))
    with advice_when_out_of_memory(config), with_files(config.data) as data:
        config = config.replace(data=data)
        corpus, config, loaded, _ = _read(config, to_stderr)
        nn.Module.to(loaded.model, torch.accelerator.current_accelerator(check_available=True) or "cpu")
        choice = method.choose(config, loaded, _encoded(config, corpus, loaded, ("train",))["train"])
        return choice.selection, overview(*choice, loaded.model)


@dataclass(frozen=True)
class Begun:
    """What a run has before its method comes in: the same for every method.

    Attributes:
        config: with everything given, and what ``auto`` stands for.
        loaded: the model, on its device, with a head made by the config's seed.
        splits: token ids by the names ``train``, ``validation`` and, if there is test data, ``test``.
        args: what the Trainer is told.
        limit: tokens after which a text is cut off.
        merged: what to report of merged tokens; empty without them.
        asked: the options as they were given.
        circumstances: what else the run depends on.
        checkpoint: the one to go on from, if this run resumes another.
        shared: with other runs on the same base.
    """

    config: TrainConfig
    corpus: Corpus
    loaded: Loaded
    splits: dict[str, Encoded]
    args: TrainingArguments
    limit: int
    merged: dict[str, Any]
    asked: dict[str, Any]
    circumstances: dict[str, Any]
    checkpoint: Path | None
    shared: Shared | None = None

    @property
    def output(self) -> Path:
        return Path(self.config.run.output)

    @property
    def method(self) -> Method:
        return method_of(self.config)

    @property
    def task(self) -> Task:
        return self.corpus.task

    @property
    def resolved(self) -> TrainConfig:
        """The config with what ``auto`` stands for in this data and model, too."""
        pooled = {} if self.task.per_token else {"pooling": pooling_for(self.config.data, self.task)}
        return self.config.replace(best_by=self.args.metric_for_best_model, **pooled)


def begin(config: TrainConfig, say: Say, checkpoint: Path | None = None, shared: Shared | None = None) -> Begun:
    """Reads the data and the model of a run whose config has been checked; of one that goes on, they must be what they were."""
    asked = config.options()
    corpus, config, loaded, merged = _read(config, say, shared)
    check_balance(config.training, corpus.task)
    say_data(corpus, say)
    if config.training.gradient_checkpointing:
        check_checkpointing("train", loaded.model)
    if config.training.packing:
        check_packing("train", loaded.model)
    halved = [name for name, weight in loaded.model.named_parameters() if weight.dtype == torch.float16]
    named = "float32 or bfloat16, as small gradients vanish in the float16 that the checkpoint is stored in"
    require(not halved, "train", "dtype", named, repr(config.data.dtype))
    splits = _encoded(config, corpus, loaded, tuple(corpus.splits))
    limit = longest(loaded, config.data.max_length)
    say_cuts(splits, corpus.task, limit, limited_by(loaded, config.data.max_length), say)
    if config.data.long == "error":
        for name, split in splits.items():
            check_cuts("train", split, corpus.task.unit, limit, name)
    best = corpus.task.best_by(corpus.label_names, config.training.best_by)
    args = arguments(config.training, config.run, best)
    found = circumstances(loaded, Path(config.data.model), splits, args.device)
    if checkpoint:
        check_circumstances(read_manifest(checkpoint)["run"], found, say)
    if not config.training.fsdp:  # whose base no device need hold whole
        nn.Module.to(loaded.model, args.device)
    told = Recipe(corpus.task.name, config.data.model, limit, template=config.data.template)
    if is_main() and (line := method_of(config).said_before(loaded, corpus.label_names, told)):
        say(line)
    return Begun(config, corpus, loaded, splits, args, limit, merged, asked, found, checkpoint, shared)


def _read(config: TrainConfig, say: Say, shared: Shared | None = None) -> tuple[Corpus, TrainConfig, Loaded, dict[str, Any]]:
    """The data, the config with what ``auto`` stands for there, the model, and what to report of merged tokens."""
    corpus = load_data(config.data, config.run.seed)
    config = resolved(config, corpus.task)
    set_seed(config.run.seed)  # the head is made at random
    loaded = load_base(config.data, corpus.task, corpus.label_names, shared)
    return corpus, config, *merge_tokens(config.data, loaded, corpus, say)


def _encoded(config: TrainConfig, corpus: Corpus, loaded: Loaded, names: tuple[str, ...]) -> dict[str, Encoded]:
    limit = longest(loaded, config.data.max_length)
    return {
        name: corpus.task.encode(
            corpus.splits[name], corpus.label_names, loaded.tokenizer, limit, name != "train", config.data.template
        )
        for name in names
    }


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
    with run_folder(config, run.corpus.record, run.asked, checkpoint):
        if is_main() and not checkpoint:
            save_run_file(output / RUN_FILE, run.resolved.replace(**paths), run.circumstances["versions"])
            save_choice(output, choice)
            draw_choice(output, lines, say)
            if groups:
                groups.save(output / GROUPS)
        with _recording(run, prepared, say) as recorder:
            scored = fit(run, prepared, report, say, *filter(None, [recorder]), shares=shares)
        if is_main():
            words = recorder.words(config.training.energy) if recorder else None
            if words:
                words.save(output / ACTIVE)
                report.words = words.best()
            if scored.scope:
                scored.scope.save(output)
            if found := ",".join(map(repr, minutes.get("shares", []))):
                again = run.resolved.replace(**paths, shares=found)
                save_run_file(output / RUN_FILE, again, run.circumstances["versions"])
            if "asked" in minutes:
                minutes["paid"] = (time.perf_counter() - began) / 60
            _save(run, prepared, report)
            draw_cost(report, output / COST_PICTURE, say)
            write_page(output / PAGE, report, scored, words, say)
        else:
            run.method.help_to_save(prepared)
    if is_main() and not config.run.keep_checkpoints:  # an error in there would have `run_folder` clear the result away too
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


def fit(
    run: Begun, prepared: Prepared, report: Report, say: Say, *callbacks: TrainerCallback, shares: Shares = by_cost
) -> Scored:
    """Trains, puts the best checkpoint's weights into the model, and fills in the scores; as `score_best`."""
    training, args, task, names, splits = run.config.training, run.args, run.task, run.corpus.label_names, run.splits
    model, tokenizer = run.loaded.model, run.loaded.tokenizer
    if training.gradient_checkpointing:
        checkpoint_layers(model)
    if training.recompute_norms and not recompute_norms(model).norms:
        say("recompute_norms changes nothing: torch fuses this model's normalisation, which keeps its input alone anyway")
    progress, interruption = Progress(report.best_by, say), Interruption(say)
    sealing = Sealing(beside(run.output), run.circumstances)  # after all that writes to a checkpoint
    counting = [ActiveShares(prepared.active, report.cost, say)] if prepared.active else []
    lengths = list(splits["train"].dataset["length"])
    pace = None
    if training.cost is not None:
        assert prepared.active is not None  # a model without layers that can leave tokens out has been refused
        pace = Pace(prepared.active, report.cost, training.cost, training.epochs, lengths, shares)
    chances = pace.chances if pace else partial(chances_within, noise=training.skip)
    weights = label_weights(training, splits["train"], len(names))
    weights = weights if weights is None else weights.to(args.device)
    teaching = Teaching(lengths, chances, args.seed, run.checkpoint, say, weights) if pace or training.skip else None
    trainer = trainer_for(prepared.handle)(
        model=prepared.model, args=args, train_dataset=splits["train"].dataset, eval_dataset=splits["validation"].dataset,
        processing_class=tokenizer, data_collator=task.collate(tokenizer),
        compute_metrics=task.score(splits["validation"], names),
        preprocess_logits_for_metrics=lambda logits, labels: task.predicted(logits),
        callbacks=[progress, *callbacks, *filter(None, [pace, teaching]), sealing, interruption, *counting, *early_stopping(training.patience)],
        optimizers=(prepared.optimizer, None), teaching=teaching, label_weights=weights,
        chances=drawing_chances(training, splits["train"], len(names)),
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    if trainer.pop_callback(ProgressCallback):
        trainer.add_callback(Bar)
    packed = Packed(model) if training.packing else None
    if packed:
        trainer.add_callback(packed)
    started = time.perf_counter()
    wanted = run.method.wants_replay(run.config)
    last = run.shared.last if run.shared else None
    replayed = replaying(wanted, model, training, tokenizer, splits["train"], args, report, say, last)
    with interruption, packed or nullcontext(), replayed as lower:
        if not run.checkpoint:
            run.method.start(run.config, run.loaded, splits["train"])
        trainer.train(resume_from_checkpoint=str(run.checkpoint) if run.checkpoint else None)
    trainer.accelerator.wait_for_everyone()  # until every process has read the best checkpoint, which may go now
    report.seconds |= {"training": time.perf_counter() - started, "epochs": progress.seconds}
    report.divided = told(prepared.handle)
    report.packing = packed.shares(say) if packed else {}
    report.exchanged = trainer.exchanged.told()
    report.history = validations(trainer.state.log_history)
    report.active = [line for callback in counting for line in callback.epochs(trainer.state.log_history)]
    report.examples, report.planned = lines(trainer.state.log_history), pace.planned if pace else []
    if pace and pace.told:
        report.minutes["shares"] = pace.told
    if report.cost and bool(report.active) == bool(prepared.active):
        once = lower.layers / number_of_layers(model) if lower else 0.0
        report.spent = spent(report.cost, report.active, report.examples, trainer.state.epoch or 0.0, once)
    report.best = next(line for line in report.history if line["step"] == trainer.state.best_global_step)
    return score_best(trainer, prepared.model, task, names, splits, tokenizer, report)


def _save(run: Begun, prepared: Prepared, report: Report) -> None:
    """The result, whole or not at all, and the report last."""
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
    report.save(output / REPORT)
