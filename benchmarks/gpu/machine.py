"""What machine this is, and whether the CUDA module loads: ``python -m benchmarks.gpu.machine --output DIR``.

machine.json is written anew after each step: the device, the module (prebuilt, else built here), the measured rates.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch

from clm_kernels.measure.bench.machine import provenance
from clm_kernels.measure.bench.timing import Machine

from ..common import write
from . import prebuilt

SECONDS = 80  # at most, to build


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.machine", description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    path = parser.parse_args().output / "machine.json"
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    stored: dict[str, object] = {
        "gpu": torch.cuda.get_device_name() if on_gpu else None,
        "machine": provenance(device),
        "nvidia-smi": output_of("nvidia-smi"),
        "nvcc": output_of("nvcc", "--version"),
    }
    write(path, stored)
    stored["module"] = module = cuda_module(on_gpu)
    write(path, stored)
    print(module)
    if on_gpu:
        stored["rates"] = Machine.measure(device).described(device)
        write(path, stored)
    return int(on_gpu and module["from"] is None)


def output_of(*command: str) -> str | None:
    """What a program says; None where there is no such program."""
    if not shutil.which(command[0]):
        return None
    return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout


def cuda_module(on_gpu: bool) -> dict[str, object]:
    """Where the module came from, why not from elsewhere, and seconds."""
    start = time.monotonic()
    reason = prebuilt.install()
    found: dict[str, object] = {"from": None if reason else "prebuilt", "no prebuilt one": reason}
    if reason and on_gpu:
        found |= built()
    return found | {"seconds": round(time.monotonic() - start, 1)}


def built() -> dict[str, object]:
    capability = "{}.{}".format(*torch.cuda.get_device_capability())
    wanted = {"CLM_KERNELS_CPU": "0", "CLM_KERNELS_CUDA": "1", "TORCH_CUDA_ARCH_LIST": capability}
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    try:
        run = subprocess.run(command, cwd=prebuilt.ROOT, env=os.environ | wanted, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return {"from": None, "build": f"cut off after {SECONDS} s"}
    return {"from": None if run.returncode else "built here", "build": (run.stdout + run.stderr)[-4000:]}


if __name__ == "__main__":
    sys.exit(main())
