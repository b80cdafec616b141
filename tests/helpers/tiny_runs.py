"""What the tests of `train` share: a quick config, two fixtures, and how runs are compared."""

from dataclasses import replace
from pathlib import Path

import needs_datasets  # noqa: F401
import pytest
import torch
from tiny_task import save_model, write_data

from clm_kernels import Delta
from clm_kernels.finetune import TrainConfig, train

PLAIN = {"epochs": 3, "batch_size": 8, "learning_rate": 1e-2, "pooling": "mean"}  # of every method
FAST = PLAIN | {"select": "fisher", "density": 0.1, "per": "weight", "sensitivity_examples": 24}


def silent(line):
    pass


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A config without output, whose model and data lie on disk."""
    folder = tmp_path_factory.mktemp("base")
    return TrainConfig(model=save_model(folder / "model"), **write_data(folder), **FAST)


@pytest.fixture(scope="module")
def finished(base, tmp_path_factory):
    """A finished run: its config and report."""
    config = replace(base, output=str(tmp_path_factory.mktemp("run") / "out"))
    return config, train(config, silent)


def trained_tensors(output):
    delta = Delta.load(Path(output) / "delta.safetensors")
    return {**delta.values, **delta.whole}


def assert_same(a, b):
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
