"""AdamW over a small part of many weights: ``python -m benchmarks.gpu.adamw [--output DIR]`` writes adamw.json."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

import clm_kernels as clm
from clm_kernels.measure.bench.cases import some_entries
from clm_kernels.measure.bench.timing import Machine, Timer, rotated

from ..common import ratio
from .reach import BLOCKS, COLUMNS, ROWS
from .scale import Scale, line, milliseconds, run_part

FUSED = "torch fused over all"
SECTOR = 32  # bytes: the least that a GPU's memory reads or writes


def rows(scale: Scale) -> Iterator[dict[str, object]]:
    rates = Machine.measure(scale.device)
    dense = weights(scale.llama, scale.device)
    for weight in dense:
        weight.grad = torch.randn_like(weight) * 1e-3
    calls = {FUSED: torch.optim.AdamW(dense, lr=1e-5, fused=True).step}
    moved = {}
    for kind, of in (("rows", ROWS), ("columns", COLUMNS)):
        values = compact(dense, lambda shape, kind=kind: some_entries(kind, shape, 0.01))
        calls[of], moved[of] = clm.SparseAdamW(values, lr=1e-5).step, sum(map(bytes_moved, values))
    seconds = rotated(calls, Timer(scale.device), scale.rounds)
    details = {"milliseconds": milliseconds(seconds), "bytes": moved, "copy": rates.copy}
    for of, bytes_ in moved.items():
        yield line(of + "share of the copy bandwidth", bytes_ / statistics.median(seconds[of]) / rates.copy, **details)
    yield line(ROWS + "torch fused over all / ours", ratio(seconds, FUSED, ROWS), **details)
    yield line(ROWS + "kernels launched", launches(calls[ROWS], scale))

    del calls, values, seconds
    for weight in dense:
        weight.grad = None
    values = compact(dense, tenth_in_blocks)
    bytes_ = sum(map(bytes_moved, values))
    seconds = rotated({BLOCKS: clm.SparseAdamW(values, lr=1e-5).step}, Timer(scale.device), scale.rounds)
    share = bytes_ / statistics.median(seconds[BLOCKS]) / rates.copy
    yield line(BLOCKS + "share of the copy bandwidth", share, milliseconds=milliseconds(seconds), bytes=bytes_, copy=rates.copy)


def weights(shapes: list[tuple[int, int]], device: torch.device) -> list[nn.Parameter]:
    return [nn.Parameter(torch.randn(shape, device=device, dtype=torch.bfloat16) * 0.02) for shape in shapes]


def compact(dense: list[nn.Parameter], choose: Callable[[tuple[int, int]], clm.Entries]) -> list[clm.Values]:
    """What is chosen of each weight, the same of those of one shape, with a gradient."""
    chosen = functools.cache(choose)
    values = []
    for weight in dense:
        values.append(clm.Values(weight, chosen(tuple(weight.shape)).to(weight.device)))
        values[-1].grad = torch.randn_like(values[-1]) * 1e-3
    return values


def tenth_in_blocks(shape: tuple[int, int], side: int = 16) -> clm.Entries:
    """10 % in blocks of 16 x 16, or of another side, by chance."""
    units = clm.Entries.of("blocks", [], shape, (side, side)).units
    chosen = torch.randperm(units, generator=torch.Generator().manual_seed(0))[: max(1, units // 10)]
    return clm.Entries.of("blocks", chosen, shape, (side, side))


def bytes_moved(values: clm.Values) -> int:
    """Of one step of bf16 values with float32 masters.

    Gradient read, value written; master and both moments read and written. Of the dense weight whole sectors are written,
    and those read before of which not every byte is new.
    """
    numel = values.numel()
    return numel * (2 * 2 + 3 * 2 * 4) + values.entries.index.nbytes + dense_bytes(values.entries, 2)


def dense_bytes(entries: clm.Entries, item: int) -> int:
    """Bytes that writing the entries into their dense weight moves."""
    flat = entries.flat_index().flatten().sort().values
    _, covered = (flat // (SECTOR // item)).unique_consecutive(return_counts=True)
    whole = int((covered == SECTOR // item).sum())
    return SECTOR * (whole + 2 * (covered.numel() - whole))


def launches(step: Callable[[], object], scale: Scale) -> float:
    """Kernels of one call; copies and fills of memory are none."""
    if not scale.on_gpu:
        return math.nan
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as recorded:
        step()
        torch.cuda.synchronize()
    on_device = [e for e in recorded.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    return sum(not event.name.startswith(("Memcpy", "Memset", "Optimizer")) for event in on_device)


if __name__ == "__main__":
    run_part("adamw", __doc__, rows)
