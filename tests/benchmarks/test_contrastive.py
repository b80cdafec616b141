"""SetFit as a cell of the comparison, and what its texts cost."""

from dataclasses import replace

import pytest
import torch
from tiny_grid import tiny_settings, write_tasks
from torch import nn

from benchmarks.tasks.__main__ import main
from benchmarks.tasks.cell import train_cell
from benchmarks.tasks.contrastive import Read, spent
from benchmarks.tasks.methods import METHODS
from benchmarks.tasks.store import Cell


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return tiny_settings(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(autouse=True)
def _data(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("CLM_KERNELS_DATA", str(write_tasks(tmp_path_factory.mktemp("data"))))


def test_a_cell_trains_on_pairs_and_counts_its_cost(settings, monkeypatch):
    pytest.importorskip("setfit", reason="setfit is not installed")
    monkeypatch.setitem(METHODS, "setfit", replace(METHODS["setfit"], given={"num_iterations": 3}))
    result = train_cell(Cell("banking77", "setfit", "test", 1, 1e-3), settings)
    assert "error" not in result, result
    assert (result["pairs"], result["best_step"]) == (3 * 2 * 24, 9)  # of 24 texts, 16 a step
    assert result["test"] == result["validation"] > 0.9  # they hold the same examples
    assert result["trained_head"] == 32 * 3 + 3 and result["trained"] == result["parameters"] > 5000
    assert result["made_on"]["setfit"]
    full = train_cell(Cell("banking77", "full", "test", 1, 1e-3), replace(settings, epochs=1))
    passes = result["flops"]["training"] / full["flops"]["training"]
    assert 8 < passes < 16  # 288 texts of pairs beside 24, and the classifier's 24, padded in other batches
    assert result["tokens"] > 12 * full["tokens"]


def test_tags_are_refused(settings):
    result = train_cell(Cell("snips_slots", "setfit", "test", 1, 1e-3), settings)
    assert result["error"].startswith("ValueError: setfit: task must be sequence, as it embeds whole texts, got 'token'")


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.linear = nn.Embedding(10, 4), nn.Linear(4, 6)

    def forward(self, features):
        return features | {"sentence_embedding": self.linear(self.embedding(features["input_ids"])).mean(1)}


def features(texts, length):
    return {"input_ids": torch.zeros(texts, length, dtype=torch.long), "attention_mask": torch.ones(texts, length)}


def test_texts_that_are_learnt_from_count_three_passes_and_others_one():
    encoder = Encoder()
    read = Read(encoder)
    for texts, length in ((2, 3), (2, 7)):
        encoder(features(texts, length))
    with torch.no_grad():
        encoder(features(5, 3))
    read.stop()
    encoder(features(9, 9))  # as for a score, which costs nothing
    assert (read.trained, read.embedded, read.real) == (20, 15, 35)
    assert spent(encoder, read) == (3 * 20 + 15) * 2 * 4 * 6
    assert all(parameter.grad is None for parameter in encoder.parameters())


def test_a_method_whose_package_is_missing_is_refused_before_anything_runs(settings, tmp_path, monkeypatch):
    monkeypatch.setitem(METHODS, "setfit", replace(METHODS["setfit"], package="no_such_package"))
    asked = {"tasks": "banking77", "methods": "head,setfit", "model": settings.model, "results": tmp_path}
    with pytest.raises(SystemExit) as caught:
        main(**asked)
    assert str(caught.value) == (
        "tasks: method 'setfit' needs the package no_such_package, which is not installed: pip install no_such_package"
    )
    with pytest.raises(SystemExit, match="there must be results of these settings"):  # to draw it takes no package
        main(**asked, draw_only=True)
    assert not (tmp_path / "cells.jsonl").exists()
