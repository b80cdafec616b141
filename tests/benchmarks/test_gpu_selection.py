"""What runs on a GPU starts on a machine that has torch, Triton and transformers, but not datasets."""

import os
import subprocess
import sys

import pytest
from places import ROOT

WITHOUT_DATASETS = """
from importlib.machinery import PathFinder

find = PathFinder.find_spec.__func__
PathFinder.find_spec = classmethod(lambda cls, name, *rest: None if name.split(".")[0] == "datasets" else find(cls, name, *rest))
"""


def test_every_test_is_collected_or_skipped_without_datasets(tmp_path):
    (tmp_path / "without_datasets.py").write_text(WITHOUT_DATASETS)
    path = os.pathsep.join([str(tmp_path), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "pytest", "-p", "without_datasets", "--collect-only", "-m", "gpu", "-rs", "tests"]
    run = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "tests/ops/test_cuda.py" in run.stdout and "the recipe needs datasets" in run.stdout


LOST = """
import torch

lost = []
torch.cuda.is_initialized = lambda: bool(lost)

def fail():
    raise RuntimeError("an illegal memory access was encountered")

torch.cuda.synchronize = fail

def test_1(): lost.append(True)
def test_2(): pass
def test_3(): pass
"""


@pytest.mark.parametrize(("workers", "said"), [("1", "1 failed, 2 passed"), ("0", "the GPU is lost to this process")])
def test_a_gpu_that_is_lost_to_a_process_costs_one_test(tmp_path, workers, said):
    """Tests go on in a new process; without pytest-xdist they end, as all that would follow would fail."""
    (tmp_path / "test_it.py").write_text(LOST)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "helpers")])}
    environment.pop("PYTEST_XDIST_WORKER", None)  # of the process that runs this test
    command = [sys.executable, "-m", "pytest", "-p", "conftest", "-n", workers, "test_it.py"]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 1 and said in run.stdout + run.stderr, run.stdout + run.stderr
