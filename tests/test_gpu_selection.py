"""What runs on a GPU starts on a machine that has torch, Triton and transformers, but not datasets."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
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
    assert "tests/test_cuda.py" in run.stdout and "the recipe needs datasets" in run.stdout
