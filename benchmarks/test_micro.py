"""``pytest benchmarks/ --benchmark-only``: every op x kind x dtype x model shape, on the GPU if there is one.

``-k "MiniLM and weight_grad"`` picks some; ``--benchmark-json=FILE`` keeps bytes, FLOP, rates and ratios with the times.
``CLM_KERNELS_COMPILE=0|1``: whether baselines under `torch.compile` are there too; by default they are on a GPU.
"""

import functools
import os
import time

import pytest
import torch

from clm_kernels.measure import bench

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
COMPILED = os.environ.get("CLM_KERNELS_COMPILE", "1" if DEVICE.type == "cuda" else "0") == "1"
TOKENS = 8192 if DEVICE.type == "cuda" else 512
CASES = [
    (op, kind, dtype, shape)
    for shape in bench.SHAPES
    for dtype in bench.DTYPES
    for op in bench.OPS
    for kind in bench.KINDS_OF.get(op, bench.KINDS)
]


@functools.cache
def machine() -> bench.Machine:
    return bench.Machine.measure(DEVICE)


def clock() -> float:
    """Seconds, when all that was launched has ended."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


@pytest.mark.benchmark(timer=clock, disable_gc=True)
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(case))
def test_op(benchmark, case):
    torch.manual_seed(0)
    built = bench.build(*case, DEVICE, TOKENS)
    benchmark.group = " ".join(case[i] for i in (0, 2, 3))
    benchmark.extra_info.update(bench.measure(built, machine(), DEVICE, rounds=7, compiled=COMPILED))
    benchmark.pedantic(built.run, setup=bench.Timer(DEVICE).flush, rounds=7)
