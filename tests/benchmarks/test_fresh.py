"""Rows that no choice has seen."""

import itertools

import pytest
from tiny_grid import plan, tiny_settings

from benchmarks.tasks.drawing import drawn, labels_of
from benchmarks.tasks.fresh import fresh
from benchmarks.tasks.store import Store

SIZES = {"train": 20, "validation": 10, "test": 15}


def rows_of(train, validation, test):
    counts = itertools.count()
    sizes = {"train": train, "validation": validation, "test": test}
    return {part: [{"text": f"text {next(counts)}", "label": "abc"[i % 3]} for i in range(size)] for part, size in sizes.items()}


def texts_of(rows):
    return {row["text"] for row in rows}


def used(rows):
    return {row["text"] for part in rows for row in drawn(rows[part], SIZES[part], "task", cover=part == "train")}


@pytest.mark.parametrize("test", [40, 15, 24], ids=["enough", "none left", "too few left"])
def test_no_row_was_used_before_and_none_twice(test):
    rows = rows_of(200, 40, test)
    first, second = (fresh(rows, SIZES, "task", seed) for seed in (101, 102))
    for part, size in SIZES.items():
        assert len(first[part]) == (size if (part, test) != ("test", 24) else 9)
        assert not texts_of(first[part]) & used(rows)
    for one, other in itertools.combinations(SIZES, 2):
        assert not texts_of(first[one]) & texts_of(first[other])
    assert first["test"] == second["test"] and first["validation"] == second["validation"] and first["train"] != second["train"]
    assert labels_of(first["train"]) == {"a", "b", "c"}


def test_a_small_task_is_drawn_anew_from_all_its_rows():
    rows = rows_of(21, 10, 15)
    made = fresh(rows, SIZES, "task", 101)
    assert {part: len(found) for part, found in made.items()} == SIZES
    assert texts_of(made["test"]) == texts_of(rows["test"]) and texts_of(made["train"]) <= texts_of(rows["train"])


def test_rows_that_are_alike_count_as_used():
    rows = rows_of(200, 40, 40)
    rows["train"] = [row | {"text": f"text {i // 2}"} for i, row in enumerate(rows["train"])]
    rows["train"] = [row | {"label": "a"} for row in rows["train"]]
    assert not texts_of(fresh(rows, SIZES, "task", 101)["train"]) & used(rows)


def test_a_fresh_grid_has_seeds_and_results_of_its_own(tmp_path):
    usual, other = (Store(tmp_path / "results", tiny_settings(tmp_path / "model", fresh=fresh)) for fresh in (False, True))
    first, second = ([cell for cell, _ in plan().cells(store) if cell] for store in (usual, other))
    assert {cell.seed for cell in first} == {0} and {cell.seed for cell in second} == {100}
    assert usual.key(first[0]) != other.key(first[0])
    assert "fresh" not in usual.settings.recorded() and other.settings.recorded()["fresh"]
