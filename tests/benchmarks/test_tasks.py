"""The comparison from end to end on tiny data: cells, their costs, resuming, methods that cannot run."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from models import batch, build
from places import ROOT
from tiny_grid import MAKERS, plan, stored, tiny_settings, write_tasks
from tiny_task import texts, write_jsonl

import clm_kernels as clm
from benchmarks.tasks import cost
from benchmarks.tasks.cell import config_of, train_cell
from benchmarks.tasks.drawing import drawn, labels_of
from benchmarks.tasks.methods import METHODS, available
from benchmarks.tasks.run import Runner
from benchmarks.tasks.store import Cell, Store
from benchmarks.tasks.tasks import TASKS, write_parts
from clm_kernels.finetune.trainer import EpochSampler
from clm_kernels.selecting.units.control import random_selection

peft = pytest.importorskip("peft")
RUNNABLE = [*available([])[0], "dora", "shira_10", "supertuning"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_tasks(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return tiny_settings(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(autouse=True)
def _data(data, monkeypatch):
    monkeypatch.setenv("CLM_KERNELS_DATA", str(data))


# Cells


@cache
def fault_of_prefix_tuning():
    """What plain PEFT and transformers say to it; None where they can do it. (PEFT 0.21 does not with transformers 5.24.)"""
    options = peft.PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2)
    model = peft.get_peft_model(build("bert"), options)
    try:
        model(**batch(model))
    except (TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"


def cannot(result, method):
    """Whether the method is one that the library behind it cannot do, as the result must then say."""
    reason = fault_of_prefix_tuning() if method == "prefix" else None
    assert result.get("error") == reason
    return reason is not None


@pytest.mark.parametrize("task", MAKERS)
@pytest.mark.parametrize("method", [name for name in RUNNABLE if name != "upper"])
def test_each_method_trains_scores_its_best_checkpoint_and_counts_its_cost(settings, task, method):
    settings = replace(settings, epochs=5, options=settings.options | ({"pooling": "mean"} if task == "banking77" else {}))
    result = train_cell(Cell(task, method, "test", 1, 3e-2), settings)
    if task == "snips_slots" and METHODS[method].kinds == ("sequence",):
        assert "for token classification" in result["error"]
        return
    if cannot(result, method):
        return
    assert len(result["history"]) == 5
    assert result["validation"] == max(line["validation"] for line in result["history"])
    assert result["test"] == result["validation"]  # they hold the same examples: the best checkpoint was scored
    head = 32 * 3 + 3 if task == "banking77" else 32 * 4 + 4
    assert result["trained_head"] == head
    assert head <= result["trained"] <= result["parameters"]
    assert (result["trained"] == head) == (method == "head")
    assert (result["trained"] == result["parameters"]) == (method == "full")
    assert result["flops"]["training"] > result["flops"]["selecting"] * (method != "sparse") >= 0
    assert result["tokens_per_second"] > 0


@pytest.mark.parametrize(("method", "rate"), [("lora", 0.04), ("shira", 0.02), ("supertuning", 0.4), ("prefix", 0.5)])
def test_the_best_checkpoint_of_an_adapter_is_the_one_that_is_scored(settings, method, rate):
    """At a rate that is too high the last checkpoint is a worse one."""
    changes = {"pooling": "mean", "scheduler": "constant"}
    settings = replace(settings, epochs=5, options=settings.options | changes)
    result = train_cell(Cell("banking77", method, "test", 1, rate), settings)
    if cannot(result, method):
        return
    assert result["history"][-1]["validation"] < result["validation"] == result["test"]


def test_methods_that_train_less_of_the_backward_pass_count_fewer_operations(settings):
    counted = {
        method: train_cell(Cell("banking77", method, "test", 1, 1e-3), replace(settings, epochs=1))["flops"]["training"]
        for method in ("full", "bitfit", "sparse", "head")
    }
    assert counted["head"] < min(counted["bitfit"], counted["sparse"])
    assert max(counted["bitfit"], counted["sparse"]) < counted["full"]


def test_what_cannot_run_says_why(settings):
    result = train_cell(Cell("banking77", "upper", "test", 1, 1e-3), settings)  # the tiny model's two layers have no upper third
    assert result["error"].startswith("ValueError: choose: the model must have linear weights")
    result = train_cell(Cell("banking77", "sparse", "test", 1, 1e-3), replace(settings, train_size=2))
    assert "train size of banking77 must be at least 3, to show every label, got 2" in result["error"]


def test_a_tuning_cell_is_not_told_of_the_test_data(settings):
    files = {part: f"{part}.jsonl" for part in ("train", "validation", "test")}
    configs = {
        stage: config_of(Cell("banking77", "sparse", stage, 1, 1e-3), settings, files, "out") for stage in ("tune", "test")
    }
    assert configs["tune"].data.test == ""
    assert configs["test"].data.test == "test.jsonl"
    assert replace(configs["tune"], test="test.jsonl") == configs["test"]
    result = train_cell(Cell("banking77", "head", "tune", 0, 1e-3), settings)
    assert result["test"] is None and result["test_scores"] is None


def test_macro_f1_chooses_where_it_is_the_score(settings, data, tmp_path, monkeypatch):
    (tmp_path / "unfair_tos").mkdir()
    for part in ("train", "validation", "test"):
        write_jsonl(tmp_path / "unfair_tos" / f"{part}.jsonl", texts(18, 1))
    monkeypatch.setenv("CLM_KERNELS_DATA", str(tmp_path))
    result = train_cell(Cell("unfair_tos", "head", "test", 1, 1e-3), settings)
    assert result["score"] == "macro_f1"
    assert result["test"] == result["test_scores"]["macro_f1"] != result["test_scores"]["accuracy"]


def test_methods_that_are_still_to_come_are_refused_by_name(monkeypatch):
    monkeypatch.setitem(METHODS, "later", replace(METHODS["sparse"], options={"method": "sparse", "not_yet": 3}))
    monkeypatch.setitem(METHODS, "kinder", replace(METHODS["sparse"], options={"select": "horoscope"}))
    methods, reasons = available([])
    assert "later" not in methods and "sparse" in methods
    assert reasons["later"] == "needs TrainConfig.not_yet = 3"
    assert reasons["kinder"] == "needs TrainConfig.select = 'horoscope'"
    with pytest.raises(ValueError, match=r"'later' needs TrainConfig.not_yet = 3, which this version does not have"):
        available(["sparse", "later"])
    with pytest.raises(ValueError, match="methods must be among full, "):
        available(["nothing"])


# Costs


def test_compact_gradients_count_two_operations_a_token_and_entry():
    model = build("bert")
    selection = random_selection(model, density=0.1, kind="rows")
    batch = {"input_ids": torch.randint(0, 20, (3, 7)), "labels": torch.tensor([0, 1, 0])}
    handle = clm.patch(model, selection, biases=True)
    with_entries = cost.flops_per_token(model, batch)
    for values in handle.values.values():
        values.requires_grad_(False)
    assert with_entries - cost.flops_per_token(model, batch) == pytest.approx(2 * selection.count)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_full_training_counts_six_operations_a_token_and_weight():
    linear = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Linear(16, 4))
    x = torch.randn(5, 8, requires_grad=True)
    assert cost.flops(lambda: linear(x).sum().backward()) == 6 * 5 * (8 * 16 + 16 * 4)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_attention_counts_whichever_way_it_is_computed(dropout):
    """4 B h T T d forward (scores, and their product with the values); the fused backward computes the scores once more."""
    q, k, v = torch.randn(3, 2, 4, 8, 16, requires_grad=True).unbind()
    forward = 4 * 2 * 4 * 8 * 8 * 16
    attend = partial(torch.nn.functional.scaled_dot_product_attention, q, k, v, dropout_p=dropout)
    assert cost.flops(attend) == forward
    assert cost.flops(lambda: attend().sum().backward()) == (3 if dropout else 3.5) * forward


def test_tokens_are_those_of_the_trainers_batches():
    lengths, size = [3, 9, 5, 7, 4, 6, 8], 2
    padded = 0
    for epoch in (0, 1):
        sampler = EpochSampler(size, lengths, 5)
        sampler.set_epoch(epoch)
        order = [lengths[i] for i in sampler]
        padded += sum(max(order[i : i + size]) * len(order[i : i + size]) for i in range(0, len(order), size))
    assert cost.tokens(lengths, size, 2, 5) == (2 * sum(lengths), padded)
    assert padded > 2 * sum(lengths)


# Data


def test_the_parts_are_the_same_every_time_and_show_every_label(data, tmp_path):
    task = TASKS["snips_slots"]
    sizes = {"train": 6, "validation": 5, "test": None}
    shutil.copytree(data, tmp_path / "data")
    path = tmp_path / "data" / "snips_slots" / "train.jsonl"
    whole = [json.loads(line) for line in path.read_text().splitlines()] + [{"tokens": ["Bob"], "tags": ["B-RARE"]}]
    write_jsonl(path, whole)
    first, second = (write_parts(task, sizes, tmp_path / name, tmp_path / "data") for name in "ab")
    rows = {part: [json.loads(line) for line in Path(path).read_text().splitlines()] for part, path in first.items()}
    assert {part: len(found) for part, found in rows.items()} == {"train": 6, "validation": 5, "test": 18}
    assert all(Path(first[part]).read_text() == Path(second[part]).read_text() for part in first)
    assert labels_of(rows["train"]) == labels_of(whole)


def test_a_draw_covers_rare_labels():
    rows = [{"text": str(i), "label": "common"} for i in range(200)] + [{"text": "x", "label": "rare"}]
    assert labels_of(drawn(rows, 3, "seed", cover=True)) == {"common", "rare"}
    assert drawn(rows, 3, "seed") != drawn(rows, 3, "another seed")


def test_labels_that_train_never_shows_are_not_asked_for(tmp_path):
    (tmp_path / "banking77").mkdir()
    for part in ("train", "validation", "test"):
        more = [] if part == "train" else [{"text": "x", "label": "unheard"}]
        write_jsonl(tmp_path / "banking77" / f"{part}.jsonl", texts(9, 1) + more)
    paths = write_parts(TASKS["banking77"], dict.fromkeys(("train", "validation", "test")), tmp_path / "out", tmp_path)
    assert all(len(Path(path).read_text().splitlines()) == 9 for path in paths.values())
    with pytest.raises(ValueError, match="clinc150 must be in"):
        write_parts(TASKS["clinc150"], {"train": 1}, tmp_path / "out", tmp_path)


# Running


def command(folder, model):
    tiny = ["--train-size", "24", "--epochs", "1", "--batch-size", "8", "--seeds", "1", "--headline-seeds", "1"]
    tiny += ["--option", "sensitivity_examples=16", "--option", "pooling=mean", "--option", "density=0.1"]
    grid = ["--tasks", "banking77", "--methods", "head,upper", "--tune-on", "each"]
    return [sys.executable, "-m", "benchmarks.tasks", *grid, *tiny, "--model", model, "--results", str(folder)]


def test_a_killed_comparison_goes_on_where_it_was(settings, data, tmp_path):
    """Killed after its first cell, run again with no time, then to the end: no cell runs twice."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    begun = subprocess.Popen(command(tmp_path, settings.model), cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (first := stored(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.05)
    begun.send_signal(signal.SIGKILL)
    begun.wait()
    time.sleep(1)  # a cell that was running ends with the process that began it
    first = stored(tmp_path)
    assert 1 <= len(first) < 6

    def run(*more):
        line = [*command(tmp_path, settings.model), *more]
        return subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout

    assert "the time is up" in run("--budget-minutes", "0")
    assert stored(tmp_path) == first
    assert "the grid is done" in run("--jobs", "2")
    second = stored(tmp_path)
    assert second[: len(first)] == first
    done = [(result["cell"]["method"], result["cell"]["stage"], "error" in result) for result in second]
    assert done.count(("head", "test", False)) == 1
    assert done.count(("head", "tune", False)) >= 4
    assert done.count(("upper", "tune", True)) >= 1
    assert {place for place in done if place[0] == "upper"} == {("upper", "tune", True)}
    table = (tmp_path / "table.md").read_text()
    assert "| ours, upper third | cannot |" in table
    assert "ours, upper third cannot run on banking77: ValueError: choose" in table
    assert (tmp_path / "scores.png").stat().st_size > 1000
    assert len((tmp_path / "runs.csv").read_text().splitlines()) == 2


def dies(cell, settings):
    os._exit(7)


def test_a_process_that_dies_is_reported_and_the_rest_goes_on(settings, tmp_path):
    store, grid = Store(tmp_path, settings), plan(methods=("head", "sparse"))
    assert Runner(grid, store, train=dies).run()
    assert [result["error"] for result in store.all()] == ["its process ended with 7"] * 2  # one failure a method says so
    assert store.forget_failures() == 2
    assert not Store(tmp_path, settings).all()
    assert math.isclose(Runner(grid, store)._expected(Cell("banking77", "head", "tune", 0, 1e-3)), 0.0)
