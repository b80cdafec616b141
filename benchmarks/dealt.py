"""Dealt groups beside 8 x 8 blocks drawn by chance: their gradient alone, and training steps. ``python -m benchmarks dealt``.

On all threads by the clock; on one thread by the processor time of this process, which others on the machine do not stop. Its
load is recorded, and the share of the cores that this process got.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from transformers import BertConfig, BertForSequenceClassification

import clm_kernels as clm
from clm_kernels import ops
from clm_kernels.measure.bench.cases import close
from clm_kernels.ops.registry import implementation
from clm_kernels.selecting.units.control import random_selection
from clm_kernels.selecting.units.dealing import dealt
from clm_kernels.selection import Entries

from .common import interleaved, keep, medians, ratio, row
from .step import step as step_of

GROUPS, BLOCK, DENSITY = 8, (8, 8), 0.1
SIZES = ((384, 384), (1536, 384), (768, 768), (3072, 768))
TOKENS = (256, 1024, 4096)
SHAPES = {  # hidden, layers, heads, intermediate; texts, tokens of a text
    "MiniLM": ((384, 6, 12, 1536), (32, 24)),
    "BERT-base": ((768, 12, 12, 3072), (16, 32)),
}
WAYS = {"full": 1.0, "blocks": DENSITY, "groups": 1 / GROUPS}
BUILDS = 3  # as in benchmarks/step.py
PLAIN, OURS, OTHER = "dense product + gather", "gathered products", "C++"
SMALL = "C++, 8 x 8 blocks, 10 %"


def gradients(rounds: int) -> list[dict[str, object]]:
    """`weight_grad` of eight groups by the vendor's products and by the C++ kernel of blocks, and of the blocks by chance."""
    rows, before = [], torch.get_num_threads()
    for threads, clock in _clocks():
        torch.set_num_threads(threads)
        for dtype in (torch.float32, torch.bfloat16):
            for size in SIZES:
                for tokens in TOKENS:
                    with told(threads) as told_of:
                        seconds = interleaved(_gradients(size, tokens, dtype), rounds, warm_up=2, clock=clock)
                    name = f"{size[0]} x {size[1]}, T = {tokens}, {str(dtype).removeprefix('torch.')}, {threads} threads"
                    details = {"milliseconds": medians(seconds)} | told_of
                    for other in (OTHER, SMALL, PLAIN):
                        what = f"weight_grad of dealt groups, {name}: {other} / ours"
                        rows.append(row(what, ratio(seconds, other, OURS), "not set", True, **details))
    torch.set_num_threads(before)
    return rows


def _gradients(size: tuple[int, int], tokens: int, dtype: torch.dtype) -> dict[str, Callable[[], object]]:
    generator = torch.Generator().manual_seed(0)
    dy, x = (torch.randn(tokens, n, generator=generator).to(dtype) for n in size)
    groups = dealt(size, GROUPS, generator)
    small = Entries.of("blocks", [], size, BLOCK)
    chance = Entries.of("blocks", torch.randperm(small.units, generator=generator)[: round(DENSITY * small.units)], size, BLOCK)
    run = {}
    for name in ("matmul", "cpu"):
        with ops.backend(name):
            run[name] = implementation("weight_grad", dy.device)
    calls = {
        PLAIN: (groups, lambda: ops.gather(dy.T @ x, groups)),
        OURS: (groups, lambda: run["matmul"](dy, x, groups.index, groups.layout, dtype)),
        OTHER: (groups, lambda: run["cpu"](dy, x, groups.index, groups.layout, dtype)),
        SMALL: (chance, lambda: run["cpu"](dy, x, chance.index, chance.layout, dtype)),
    }
    for entries, call in calls.values():
        close(call(), ops.gather(dy.float().T @ x.float(), entries), dtype, tokens**0.5)
    return {name: call for name, (_, call) in calls.items()}


def steps(rounds: int) -> list[dict[str, object]]:
    """A training step, as `train` patches a model: biases and norms train too."""
    rows, before = [], torch.get_num_threads()
    for (threads, clock), (name, (sizes, batch)) in itertools.product(_clocks(), SHAPES.items()):
        torch.set_num_threads(threads)
        seconds: dict[str, list[float]] = {}
        with told(threads) as told_of:
            for _ in range(BUILDS):
                made = {way: full_step(sizes) if way == "full" else _sparse(sizes, way, density) for way, density in WAYS.items()}
                taken = interleaved({way: step_of(*pair, *batch) for way, pair in made.items()}, rounds // BUILDS, 2, clock=clock)
                for way, values in taken.items():
                    seconds.setdefault(way, []).extend(values)
        details = {"milliseconds": medians(seconds)} | told_of
        for slow, fast in (("full", "groups"), ("full", "blocks"), ("blocks", "groups")):
            what = f"step of {name}'s shape, {threads} threads: {slow} / {fast}"
            rows.append(row(what, ratio(seconds, slow, fast), "not set", True, **details))
    torch.set_num_threads(before)
    return rows


def _clocks() -> list[tuple[int, Callable[[], float]]]:
    return [(1, time.process_time), (torch.get_num_threads(), time.perf_counter)]


def model_of(sizes: tuple[int, int, int, int]) -> BertForSequenceClassification:
    torch.manual_seed(0)
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    return BertForSequenceClassification(BertConfig(**dict(zip(names, sizes, strict=True)), num_labels=77)).train()


def full_step(sizes: tuple[int, int, int, int]):
    model = model_of(sizes)
    return model, torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)


def _sparse(sizes: tuple[int, int, int, int], kind: str, density: float):
    model = model_of(sizes)
    clm.patch(model, random_selection(model, density=density, kind=kind, block=BLOCK), biases=True, norms=True)
    return model, clm.SparseAdamW(model.parameters(), lr=1e-5)


@contextmanager
def told(threads: int) -> Iterator[dict[str, object]]:
    """How busy the machine was: its load before, and the share of `threads` cores that this process got."""
    found: dict[str, object] = {"load": round(os.getloadavg()[0], 1)}
    wall, busy = time.perf_counter(), time.process_time()
    yield found
    found["share"] = round((time.process_time() - busy) / (time.perf_counter() - wall) / threads, 2)


def main(rounds: int = 15) -> list[dict[str, object]]:
    rows = steps(3 * rounds) + gradients(rounds)
    keep("dealt", rows)
    return rows


if __name__ == "__main__":
    main()
