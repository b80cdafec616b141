"""AdamW where the launch counts: ``python -m benchmarks.gpu.launch [--output DIR]`` writes launch.json."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

import torch

import clm_kernels as clm
from clm_kernels.measure.bench.timing import Timer, rotated

from .adamw import compact, tenth_in_blocks, weights
from .reach import BERT
from .scale import Scale, line, run_part


def rows(scale: Scale) -> Iterator[dict[str, object]]:
    step = clm.SparseAdamW(compact(weights(scale.bert, scale.device), tenth_in_blocks), lr=1e-5).step
    device = rotated({"step": step}, Timer(scale.device), 4 * scale.rounds)["step"]
    yield line(BERT + "microseconds on the device", 1e6 * statistics.median(device))
    host = []
    for _ in range(4 * scale.rounds):
        start = time.perf_counter()
        step()
        host.append(time.perf_counter() - start)
        if scale.on_gpu:
            torch.cuda.synchronize()
    yield line(BERT + "microseconds on the host", 1e6 * statistics.median(host))


if __name__ == "__main__":
    run_part("launch", __doc__, rows)
