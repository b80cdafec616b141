"""A short sweep of `weight_grad` over density: ``python -m benchmarks.gpu.sweep --output DIR`` writes sweep.json."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from ..sweep import keep

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.sweep", description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    on_gpu = torch.cuda.is_available()
    keep(torch.device("cuda" if on_gpu else "cpu"), parser.parse_args().output / "sweep.json", quick=not on_gpu, short=on_gpu)
