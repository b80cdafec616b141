"""The CUDA kernels on small sizes under compute-sanitizer: ``python -m benchmarks.gpu.sanitize --output DIR``."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

import torch

from ..common import machine, write
from .calls import PYTEST, ROOT, SKIPPED
from .scale import line

SMALL = "odd and (float32 or bfloat16)"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.sanitize", description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    output = parser.parse_args().output
    if not torch.cuda.is_available() or not shutil.which("compute-sanitizer"):
        print("skipped: needs a GPU and compute-sanitizer")
        return SKIPPED
    sanitizer = ["compute-sanitizer", "--error-exitcode", "9", "--target-processes", "all"]
    command = [*sanitizer, sys.executable, "-m", *PYTEST, "-x", "tests/ops/test_cuda.py", "-k", SMALL]
    run = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(run.stdout)
    errors = [int(count) for count in re.findall(r"ERROR SUMMARY: (\d+) error", run.stdout)]
    if errors:
        row = line("compute-sanitizer over the small sizes: errors", sum(errors), exit=run.returncode)
        write(output / "sanitize.json", {"machine": machine("cuda"), "rows": [row]})
    return run.returncode


if __name__ == "__main__":
    sys.exit(main())
