"""Logistic regression on frozen vectors, as cells of the comparison."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_grid import MAKERS, tiny_settings, write_tasks

from benchmarks.tasks.cell import config_of, train_cell
from benchmarks.tasks.logistic import vectors
from benchmarks.tasks.store import Cell
from benchmarks.tasks.tasks import TASKS, write_parts
from clm_kernels.finetune.beginning import begin
from clm_kernels.finetune.encode import IGNORED
from clm_kernels.finetune.saying import say_nothing

pytest.importorskip("sklearn", reason="scikit-learn is not installed")
SIZES = {"train": 24, "validation": None, "test": None}
MEAN = {"pooling": "mean"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_tasks(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return tiny_settings(tmp_path_factory.mktemp("model") / "model", epochs=1, options=MEAN)


@pytest.fixture(autouse=True)
def _data(data, monkeypatch):
    monkeypatch.setenv("CLM_KERNELS_DATA", str(data))


def cell_of(task, c=30.0, method="embed_logistic"):
    return Cell(task, method, "test", 1, c)


@pytest.mark.parametrize(("task", "pooling"), [("banking77", "mean"), ("banking77", "max"), ("snips_slots", "auto")])
def test_the_vectors_are_what_the_head_reads(settings, data, tmp_path, task, pooling):
    """Text by text, so without padding, and of tags at each word's first token."""
    settings = replace(settings, options=settings.options | {"pooling": pooling})
    files = write_parts(TASKS[task], SIZES, tmp_path / "data", data)
    begun = begin(config_of(cell_of(task), settings, files, str(tmp_path / "run")), say_nothing)
    found, labels = vectors(begun, "train")
    model, read = begun.loaded.model.eval(), {}
    model.classifier.register_forward_pre_hook(lambda head, args: read.update(vector=args[0]))
    expected = []
    for row in begun.splits["train"].dataset:
        gold = torch.tensor(row["labels"])
        model(input_ids=torch.tensor([row["input_ids"]]), attention_mask=torch.tensor([row["attention_mask"]]))
        own = read["vector"].detach()
        of_row = zip(own[0, gold != IGNORED], gold[gold != IGNORED]) if task == "snips_slots" else [(own[0], gold)]
        expected += [(*vector.tolist(), int(label)) for vector, label in of_row]
    given = [(*vector.tolist(), int(label)) for vector, label in zip(found, labels[labels != IGNORED], strict=True)]
    assert len(given) == (24 if task == "banking77" else len(expected)) > 20
    np.testing.assert_allclose(sorted(given), sorted(expected), rtol=0, atol=2e-5)


@pytest.mark.parametrize("task", MAKERS)
def test_a_cell_scores_what_was_fitted_and_counts_its_cost(settings, task):
    result = train_cell(cell_of(task), settings)
    head = 32 * 3 + 3 if task == "banking77" else 32 * 4 + 4
    assert result["trained"] == result["trained_head"] == head < result["parameters"]
    assert result["test"] == result["validation"] > 0.9  # they hold the same examples
    assert result["score"] in result["test_scores"]
    (only,) = result["history"]
    assert (only["step"], only["validation"]) == (result["best_step"], result["validation"])
    rows = result["flops"]["training"] / (4 * (head - head // 33) * only["step"])
    assert rows == 24 if task == "banking77" else 24 * 4 <= rows <= 24 * 6 and rows.is_integer()  # texts; words
    assert result["seconds"]["whole"] > result["seconds"]["selecting"] + result["seconds"]["training"] > 0


def test_the_vectors_cost_one_forward_pass(settings):
    """As the warm-up of a head does, and no validation data are read; texts are padded in other batches."""
    embedded = train_cell(cell_of("banking77"), settings)["flops"]["selecting"]
    head = train_cell(cell_of("banking77", 1e-2, "head"), settings)["flops"]
    assert 0.8 < embedded / head["selecting"] < 1.25 and 0.8 < embedded / head["training"] < 1.25


def test_the_penalty_is_the_cells_rate(settings):
    loose, tight = (train_cell(cell_of("banking77", c), settings) for c in (30.0, 1e-6))
    assert loose["validation"] > tight["validation"]


def test_a_tuning_cell_scores_no_test_data(settings):
    result = train_cell(replace(cell_of("snips_slots"), stage="tune", seed=0), settings)
    assert result["test"] is None and result["test_scores"] is None and result["validation"] > 0.9
