"""One cell: a training run in a process of its own, from the data to its stored result."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from transformers import set_seed

from clm_kernels.finetune import TrainConfig
from clm_kernels.finetune.beginning import Begun, begin
from clm_kernels.finetune.fitting import fit
from clm_kernels.finetune.methods import Prepared, check
from clm_kernels.finetune.recipe import begin_report
from clm_kernels.measure.subject import beside
from clm_kernels.models.features import run_once

from . import cost
from .baselines import trained_head
from .methods import METHODS, Way
from .store import Cell, Settings, Store
from .tasks import TASKS, data_directory, write_parts

with contextlib.suppress(ImportError):  # loaded before the processes part, where it is installed
    import peft  # noqa: F401

DENSITY = 0.025  # with the biases and norms within 3 % of all-MiniLM-L6-v2's linear entries


def config_of(cell: Cell, settings: Settings, files: dict[str, str], output: str) -> TrainConfig:
    """The recipe's config; a tuning cell is not told of the test data."""
    way, options = METHODS[cell.method], {"density": DENSITY, **settings.options, **METHODS[cell.method].options}
    options["density"] = min(1.0, way.density_times * options["density"])
    kept = {part: path for part, path in files.items() if part != "test" or cell.stage == "test"}
    return TrainConfig(
        model=settings.model, output=output, task=TASKS[cell.task].kind, best_by=TASKS[cell.task].score,
        seed=cell.seed, learning_rate=cell.learning_rate, epochs=settings.epochs, batch_size=settings.batch_size,
        max_length=settings.max_length, **kept, **options,
    )  # fmt: skip


def train_cell(cell: Cell, settings: Settings) -> dict[str, Any]:
    """Trains and measures; what goes wrong on the way becomes the result's ``error``."""
    way, started = METHODS[cell.method], time.perf_counter()
    try:
        with tempfile.TemporaryDirectory() as folder:
            sizes = {part: getattr(settings, f"{part}_size") for part in ("train", "validation", "test")}
            fresh_for = cell.seed if settings.fresh else None
            files = write_parts(TASKS[cell.task], sizes, Path(folder) / "data", data_directory(), fresh_for)
            config = config_of(cell, settings, files, f"{folder}/run")
            check(beside(config))  # without what a baseline alone reads
            result = way.run(config, cell.learning_rate, **way.given) if way.run else _measured(config, way)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0], "seconds": {"whole": time.perf_counter() - started}}
    result["seconds"]["whole"] = time.perf_counter() - started
    return result


def _measured(config: TrainConfig, way: Way) -> dict[str, Any]:
    before = cost.memory(torch.device("cpu"))
    run = begin(config, _say)
    run.args.save_only_model, run.args.disable_tqdm = True, True
    method, loaded, made = way.method or run.method, run.loaded, []
    parameters, training, seed = loaded.model.num_parameters(), run.config.training, run.config.run.seed

    def choose() -> None:
        made.append(method.choose(run.config, loaded, run.splits["train"]).selection)

    began = time.perf_counter()
    choosing = cost.flops(choose)
    selecting, (selection,) = time.perf_counter() - began, made
    leaves_out = method.active_tokens and training.leaves_out
    counted = method.cost(run.config, loaded, selection, run.splits["train"]) if leaves_out else {}
    set_seed(seed)
    began = time.perf_counter()
    prepared = method.prepare(loaded.model, run.config, selection, head=loaded.head, extension=loaded.extension)
    selecting += time.perf_counter() - began
    report = begin_report(run, selection, prepared, parameters, selecting)
    report.cost = counted
    set_seed(seed)
    fit(run, prepared, report, _say)
    peak = cost.memory(run.args.device) - (before if run.args.device.type == "cpu" else 0)
    first, later = _flops_per_token(run, prepared)
    lengths = list(run.splits["train"].dataset["length"])
    real, padded = cost.tokens(lengths, training.batch_size, int(training.epochs), seed)
    stepping = sum(report.seconds["epochs"]) + report.seconds.get("replay", 0.0)
    once = (first - later) * padded / training.epochs
    part = cost.of_every_token(report.active, report.cost, report.examples)
    return {
        "score": report.best_by, "validation": report.best[report.best_by], "best_step": report.best["step"],
        "test": report.test and report.test[report.best_by], "test_scores": report.test,
        "history": [{"step": line["step"], "validation": line[report.best_by]} for line in report.history],
        "trained": report.trained, "trained_head": trained_head(prepared, loaded.head), "parameters": parameters,
        "seconds": {"selecting": selecting, "training": stepping, "epochs": report.seconds["epochs"]},
        "tokens": real, "tokens_per_second": real / stepping, "flops": {"selecting": choosing, "training": part * later * padded + once},
        "active": [{"tokens": line["tokens"], "flops": line["flops"]} for line in report.active],
        "examples": [{"examples": line["examples"], "tokens": line["tokens"]} for line in report.examples],
        "peak_bytes": peak,
        "threads": torch.get_num_threads(), "made_on": report.made_on, "spent": report.spent,
    }  # fmt: skip


def _flops_per_token(run: Begun, prepared: Prepared) -> tuple[float, float]:
    """Of a step with texts not seen before, and with others; every token in its backward."""
    if prepared.active is not None:
        prepared.active.choose = cost.every_token
    with run_once(run.loaded.model) if run.method.wants_replay(run.config) else contextlib.nullcontext():
        return tuple(cost.flops_per_token(prepared.model, _first_batch(run)) for _ in range(2))


def _first_batch(run: Begun) -> dict[str, torch.Tensor]:
    rows = run.splits["train"].dataset.select(range(min(run.config.training.batch_size, len(run.splits["train"].split))))
    batch = run.task.collate(run.loaded.tokenizer)(rows.remove_columns("length").to_list())
    return {name: tensor.to(run.args.device) for name, tensor in batch.items()}


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def work(cell: Cell, settings: Settings, folder: Path, threads: int, log: str,
         train: Callable[[Cell, Settings], dict[str, Any]] = train_cell) -> None:  # fmt: skip
    """What the process of a cell does; it ends with the one that started it."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    torch.set_num_threads(threads)
    datasets.disable_progress_bars()
    transformers.utils.logging.set_verbosity_error()
    Store(folder, settings).put(cell, train(cell, settings.at(cell.stage)))


def _end_with_parent() -> None:
    parent_process().join()
    os._exit(1)
