"""`train`: from a labelled file and a base model to a fine-tuned classifier, in one call."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import PrinterCallback, ProgressCallback, TrainingArguments, set_seed

from ..errors import require
from ..models.conform import recipe_of
from ..models.portable import save_portable
from ..models.recomputing import check_checkpointing, checkpoint_layers, recompute_norms
from ..recipe import Recipe
from ..selecting.overview import Overview, overview
from ..selection import Selection
from .chosen import draw_choice, load_choice, save_choice
from .config import TrainConfig
from .data import Data, load_data
from .encode import Encoded, best_by, collator, encode, scorer
from .lora import Adapter, fold, require_peft
from .merging import merge_tokens
from .methods import Method, choose_units, find_groups, prepare, spent
from .models import Loaded, load, longest, pooling_for
from .outputs import ADAPTER, CHECKPOINTS, DELTA, GROUPS, REPORT, check_output, is_main, run_folder, write_folder
from .replaying import replaying
from .report import Report, machine, validations, without_timing
from .trainer import Bar, Interruption, Progress, RunTrainer, arguments, early_stopping, last_checkpoint

Say = Callable[[str], None]


def to_stderr(line: str) -> None:
    """Prints a line without breaking a progress bar."""
    tqdm.write(line, file=sys.stderr)


def train(config: TrainConfig, say: Say = to_stderr) -> Report:
    """Trains a classifier as `config` says, and leaves it in the output folder.

    Everything is checked before a file is made. The best checkpoint is the one with the best validation score; the
    test data is scored once, after that choice. Methods sparse and head leave a `Delta` (``delta.safetensors``),
    lora leaves an adapter in PEFT's format, full a whole checkpoint; beside it stand the config, the tokenizer, the
    selection and ``report.json``; where a sensitivity was measured, its scores, and if matplotlib is installed a picture
    of what they chose and left.

    Args:
        config: what to train on what, and how.
        say: takes a line about the progress; the standard error by default.

    Raises:
        ValueError: for anything in the config or the files that cannot be right.
        RuntimeError: if the method lora has no peft.
        KeyboardInterrupt: after Ctrl-C, with a checkpoint to resume from.
    """
    config.check(("output",) if config.resume else ("model", "train", "output"))
    config = check_output(config)
    if config.method == "lora":
        require_peft("train")
    with advice_when_out_of_memory(config):
        return _train(config, say)


def choose_selection(config: TrainConfig) -> tuple[Selection, Overview]:
    """The selection that `train` would make with this config, and what it leaves; nothing is trained or written.

    Raises:
        ValueError: as `train`.
    """
    config.check(("model", "train"))
    require(config.method == "sparse", "choose_selection", "method", "'sparse'", repr(config.method))
    with advice_when_out_of_memory(config):
        data = load_data(config)
        config = config.resolved(data.task)
        loaded = merge_tokens(config, _load(config, data), data, to_stderr)[0]
        loaded.model.to(torch.accelerator.current_accelerator(check_available=True) or "cpu")
        limit = longest(loaded, config.max_length)
        train = encode(data.train, data.task, data.label_names, loaded.tokenizer, limit, False, config.template)
        choice = choose_units(config, loaded, train)
        return choice.selection, overview(*choice, loaded.model)


@contextmanager
def advice_when_out_of_memory(config: TrainConfig) -> Iterator[None]:
    """Turns the many errors that mean "out of memory" into one line that helps.

    Raises:
        RuntimeError: in their place.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, (MemoryError, torch.OutOfMemoryError)) and "can't allocate memory" not in str(error):
            raise
        raise RuntimeError(
            f"train: out of memory; try a batch_size below {config.batch_size} with more gradient_accumulation, "
            f"a max_length below {config.max_length}, layers 'upper half', or precision bf16"
        ) from error


@dataclass(frozen=True)
class Run:
    """What a run has before its method comes in: the same for every method.

    Attributes:
        config: with everything given, and what ``auto`` stands for.
        loaded: the model, on its device, with a head made by the config's seed.
        splits: token ids by the names ``train``, ``validation`` and, if there is test data, ``test``.
        args: what the Trainer is told.
        limit: tokens after which a text is cut off.
        merged: what to report of merged tokens; empty without them.
    """

    config: TrainConfig
    data: Data
    loaded: Loaded
    splits: dict[str, Encoded]
    args: TrainingArguments
    limit: int
    merged: dict[str, Any]


def begin(config: TrainConfig, say: Say) -> Run:
    """Reads the data and the model of a run whose config has been checked."""
    data = load_data(config)
    config = config.resolved(data.task)
    loaded, merged = merge_tokens(config, _load(config, data), data, say)
    if config.gradient_checkpointing:
        check_checkpointing("train", loaded.model)
    halved = [name for name, weight in loaded.model.named_parameters() if weight.dtype == torch.float16]
    named = "float32 or bfloat16, as small gradients vanish in the float16 that the checkpoint is stored in"
    require(not halved, "train", "dtype", named, repr(config.dtype))
    limit = longest(loaded, config.max_length)
    splits = {
        name: encode(split, data.task, data.label_names, loaded.tokenizer, limit, name != "train", config.template)
        for name, split in (("train", data.train), ("validation", data.validation), ("test", data.test))
        if split is not None
    }
    _say_cuts(splits, data.task, limit, say)
    args = arguments(config, Path(config.output) / CHECKPOINTS, best_by(data.task, data.label_names, config.best_by))
    loaded.model.to(args.device)
    return Run(config, data, loaded, splits, args, limit, merged)


def begin_report(
    run: Run, selection: Selection, method: Method, parameters: int, selecting: float, lines: Overview | None = None
) -> Report:
    """The report before training; `parameters` is what the model has unpatched, `selecting` is in seconds.

    Args:
        lines: what was chosen and left; by default what the selection tells by itself.
    """
    lines = overview(selection, {}, run.loaded.model) if lines is None else lines
    return Report(
        config=asdict(run.config), data=run.data.record, labels=run.data.label_names, selection=[line._asdict() for line in lines],
        trained=method.trained, parameters=parameters, best_by=run.args.metric_for_best_model, max_length=run.limit,
        cut={name: split.cut for name, split in run.splits.items()}, seconds={"selecting": selecting},
        made_on=machine(run.args.device), merged=run.merged,
    )  # fmt: skip


def _train(config: TrainConfig, say: Say) -> Report:
    run = begin(config, say)
    config, loaded = run.config, run.loaded
    started = time.perf_counter()
    groups = None if config.resume else find_groups(config, loaded, run.data.train)
    choice = load_choice(Path(config.output)) if config.resume else choose_units(config, loaded, run.splits["train"], groups)
    selecting = time.perf_counter() - started
    if groups is not None and not groups and choice.scores:
        say("no run of words tells a label: the units are scored by all tokens")
    cost = _counted(run, choice.selection, say)
    set_seed(config.seed)
    parameters, lines = loaded.model.num_parameters(), overview(*choice, loaded.model)
    method = prepare(config, loaded, choice.selection)
    report = begin_report(run, choice.selection, method, parameters, selecting, lines)
    report.cost = cost
    if config.resume:
        say(f"resuming after {last_checkpoint(Path(run.args.output_dir)).name}, with the options that the run was begun with")
    with run_folder(config, run.data.record) as output:
        if is_main() and not config.resume:
            save_choice(output, choice)
            draw_choice(output, lines, say)
            if groups:
                groups.save(output / GROUPS)
        fit(run, method, report, say)
        if is_main():
            _save(config, output, loaded, method, report, run.limit)
    return report


def _counted(run: Run, selection: Selection, say: Say) -> dict[str, Any]:
    if run.config.method == "lora":  # its products are not the cost model's
        return {}
    try:
        return spent(run.config, run.loaded, selection, run.splits["train"])
    except ValueError as error:
        say(f"the backward's FLOPs are not counted: {error}")
        return {}


def _load(config: TrainConfig, data: Data) -> Loaded:
    set_seed(config.seed)  # the head is made at random
    pooling = pooling_for(config, data.task)
    return load(
        config.model, data.task, data.label_names, pooling, config.weights_dtype, template=config.template,
        bidirectional=config.bidirectional,
    )  # fmt: skip


def fit(run: Run, method: Method, report: Report, say: Say) -> None:
    """Trains, puts the best checkpoint's weights into the model, and fills in the scores."""
    config, args, data, splits = run.config, run.args, run.data, run.splits
    if config.gradient_checkpointing:
        checkpoint_layers(run.loaded.model)
    if config.recompute_norms and not recompute_norms(run.loaded.model).norms:
        say("recompute_norms changes nothing: torch fuses this model's normalisation, which keeps its input alone anyway")
    progress, interruption = Progress(report.best_by, say), Interruption(say)
    trainer = RunTrainer(
        model=method.model or run.loaded.model, args=args,
        train_dataset=splits["train"].dataset, eval_dataset=splits["validation"].dataset,
        processing_class=run.loaded.tokenizer, data_collator=collator(data.task, run.loaded.tokenizer),
        compute_metrics=scorer(splits["validation"], data.task, data.label_names),
        preprocess_logits_for_metrics=lambda logits, labels: logits.argmax(-1),
        callbacks=[progress, interruption, *early_stopping(config)], optimizers=(method.optimizer, None),
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    if trainer.pop_callback(ProgressCallback):
        trainer.add_callback(Bar)
    started = time.perf_counter()
    kept = replaying(config, run.loaded.model, run.loaded.tokenizer, splits["train"], args, report, say)
    with interruption, kept:
        trainer.train(resume_from_checkpoint=str(last_checkpoint(Path(args.output_dir))) if config.resume else None)
    report.seconds |= {"training": time.perf_counter() - started, "epochs": progress.seconds}
    report.history = validations(trainer.state.log_history)
    report.best = next(line for line in report.history if line["step"] == trainer.state.best_global_step)
    if "test" in splits:
        trainer.compute_metrics = scorer(splits["test"], data.task, data.label_names)
        report.test = without_timing(trainer.predict(splits["test"].dataset).metrics, "test_")


def _save(config: TrainConfig, output: Path, loaded: Loaded, method: Method, report: Report, limit: int) -> None:
    """The result, whole or not at all, and the report last."""
    model, tokenizer = loaded.model, loaded.tokenizer
    tokenizer.model_max_length = limit
    task = report.data["task"]
    details = {"config": report.config, "best": report.best, "test": report.test, "made_on": report.made_on}
    recipe = recipe_of(
        model, Recipe(task, config.model, limit, pooling_for(config, task), template=config.template, details=details)
    )
    if method.handle is not None:
        delta = method.handle.delta(labels=report.labels, recipe=recipe)
        method.handle.restore()
        write_folder(output, lambda folder: (model.config.save_pretrained(folder), tokenizer.save_pretrained(folder)))
        delta.save(output / DELTA)
        report.sizes["delta"] = (output / DELTA).stat().st_size
    elif config.method == "lora":
        adapter = Adapter.of(loaded, report.labels, recipe)
        fold(model)
        parts = (adapter.save, model.config.save_pretrained, tokenizer.save_pretrained)
        write_folder(output, lambda folder: [write(folder) for write in parts])
        report.sizes["adapter"] = (output / ADAPTER).stat().st_size
    else:
        write_folder(output, lambda folder: (save_portable(model, folder), tokenizer.save_pretrained(folder)))
    report.sizes["checkpoint"] = sum(tensor.nbytes for tensor in {id(p): p for p in model.parameters()}.values())
    report.save(output / REPORT)


def _say_cuts(splits: dict[str, Encoded], task: str, limit: int, say: Say) -> None:
    what = "words" if task == "token" else "texts"
    for name, split in splits.items():
        if split.cut:
            counted = "; cut-off words count as missed" if task == "token" and name != "train" else ""
            say(f"{name}: {split.cut:,} {what} cut off at {limit} tokens{counted} (max_length sets the limit)")
