"""Tiny data of two tasks, a plan over it, and made-up results, for the tests of the comparison."""

import json

import needs_datasets  # noqa: F401
from tiny_task import save_model, sentences, texts, write_jsonl

from benchmarks.tasks.methods import METHODS
from benchmarks.tasks.plan import START, Plan
from benchmarks.tasks.store import Cell, Settings, Store

PHRASES = {"billing": "is it", "delivery": "where is", "access": "with my"}  # of two pieces, so that there is something to merge


def phrased(count, seed):
    return [row | {"text": f"{row['text']} {PHRASES[row['label']]}"} for row in texts(count, seed)]


MAKERS = {"banking77": phrased, "snips_slots": sentences}
RATE = START[1]


def write_tasks(folder):
    """The two tasks' data; validation and test are the same, so that their scores must be too."""
    for task, make in MAKERS.items():
        (folder / task).mkdir(parents=True)
        for seed, (part, size) in enumerate({"train": 40, "validation": 18, "test": 18}.items()):
            write_jsonl(folder / task / f"{part}.jsonl", make(size, min(seed, 1)))
    return folder


def tiny_settings(folder, **changes):
    sizes = {"train_size": 24, "validation_size": None, "test_size": None, "epochs": 2, "batch_size": 8}
    options = {"sensitivity_examples": 16, "density": 0.1, **changes.pop("options", {})}
    model = save_model(folder, max_position_embeddings=64) if not folder.exists() else str(folder)
    return Settings(model=model, **{**sizes, **changes}, options=options)


def plan(tasks=("banking77",), methods=("full", "sparse"), seeds=2, headline_seeds=2, tune_on=None):
    return Plan(list(tasks), list(methods), seeds, headline_seeds, tune_on)


def result(test, validation=0.9, flops=100, seconds=10.0, steps=(1, 2), **more):
    """A made-up result; its best validation comes last."""
    return {
        "score": "accuracy", "validation": validation, "best_step": steps[-1], "test": test, "test_scores": {},
        "history": [{"step": step, "validation": validation * (i + 1) / len(steps)} for i, step in enumerate(steps)],
        "trained": 1100, "trained_head": 100, "parameters": 5000,
        "seconds": {"selecting": 0.0, "training": seconds, "whole": 2 * seconds}, "tokens": 1000, "tokens_per_second": 100.0,
        "flops": {"selecting": 0, "training": flops}, "peak_bytes": 1000, "threads": 1,
        "made_on": {"device": "cpu", "torch": "2", "transformers": "5"}, **more,
    }  # fmt: skip


def made_up(store: Store, grid: Plan, results):
    """Fills the store as if the grid had run: RATE is best; `results` gives (task, method, seed) -> a result or an error."""
    for task in grid.tasks:
        for method in grid.methods:
            first = results(task, method, 1)
            for rate in START[:1] if "error" in first else START:
                tuned = first if "error" in first else {**result(None, 0.9 if rate == RATE else 0.5)}
                store.put(Cell(task, method, "tune", 0, rate), tuned)
            if "error" not in first:
                for seed in range(1, (grid.headline_seeds if METHODS[method].headline else grid.seeds) + 1):
                    store.put(Cell(task, method, "test", seed, RATE), results(task, method, seed))
    return store


def stored(folder):
    """Every stored result, in the order of their lines."""
    file = folder / "cells.jsonl"
    return list(map(json.loads, file.read_text().splitlines())) if file.exists() else []
