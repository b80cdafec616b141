"""`weight_grad` beside the dense product: ``python -m benchmarks.gpu.products [--output DIR]`` writes products.json."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

import clm_kernels as clm
from clm_kernels import ops
from clm_kernels.measure.bench.cases import some_entries
from clm_kernels.measure.bench.timing import Timer, rotated
from clm_kernels.selecting.units.dealing import dealt

from ..common import ratio
from ..sweep import implementations
from .adamw import tenth_in_blocks
from .reach import PRODUCT
from .scale import Scale, line, milliseconds, run_part

DENSE, PLAIN = "dense product", "dense product + gather"
STRIP = 4 << 22  # bytes of a strip of the dense product in float32
SELECTIONS: dict[str, tuple[Callable[[tuple[int, int]], clm.Entries], str]] = {  # what -> what is selected, beside what
    "2 % rows": (lambda shape: some_entries("rows", shape, 0.02), DENSE),
    "2 % columns": (lambda shape: some_entries("columns", shape, 0.02), DENSE),
    "2 % in 64 x 64 blocks": (lambda shape: some_entries("blocks", shape, 0.02), DENSE),
    "dealt groups, G = 8": (lambda shape: dealt(shape, 8, torch.Generator().manual_seed(0)), DENSE),
    "10 % in 8 x 8 blocks": (lambda shape: tenth_in_blocks(shape, 8), PLAIN),
    "1 % elements": (lambda shape: some_entries("elements", shape, 0.01), PLAIN),
}


def rows(scale: Scale) -> Iterator[dict[str, object]]:
    out, inner, tokens = scale.product
    dy, x = (torch.randn(tokens, n, device=scale.device, dtype=torch.bfloat16) for n in (out, inner))
    exact = dy.double().T @ x.double()
    for what, (choose, beside) in SELECTIONS.items():
        yield from measured(what, choose((out, inner)).to(scale.device), beside, dy, x, exact, scale)


def measured(
    what: str, entries: clm.Entries, beside: str, dy: Tensor, x: Tensor, exact: Tensor, scale: Scale
) -> Iterator[dict[str, object]]:
    """Every implementation, each checked first; the fastest one's rows, with the times of all."""
    ways = {
        name: partial(way, dy, x, entries.index, entries.layout, dy.dtype)
        for name, way in implementations(scale.device).items()
        if name != "reference"  # which gathers both operands for every block or element
    }
    failed = {}
    for name, way in [*ways.items()]:
        try:
            close(way(), ops.gather(exact, entries))
        except (AssertionError, torch.OutOfMemoryError) as error:
            failed[name] = f"{type(error).__name__}: {error}"
            del ways[name]
    if not ways:
        raise AssertionError(f"{what}: no implementation is right: {failed}")
    calls = {DENSE: lambda: dy.T @ x, PLAIN: lambda: ops.gather(dy.T @ x, entries), **ways}
    seconds = rotated(calls, Timer(scale.device), scale.rounds)
    best = min(ways, key=lambda name: statistics.median(seconds[name]))
    layout = entries.layout
    chosen = ops.chosen(
        scale.device, "weight_grad", entries.kind, dy.dtype, dy.shape[0] * layout.rows * layout.columns, entries.density
    )
    details = {"implementation": best, "auto takes": chosen, "wrong": failed, "milliseconds": milliseconds(seconds)}
    faster = ratio(seconds, beside, best)
    if beside == DENSE:
        yield line(f"{PRODUCT}{what}: dense product / ours", faster, **details)
        return
    yield line(f"{PRODUCT}{what}: ours / (dense product + gather)", 1 / faster, **details)
    allowed = 2 * math.prod(entries.compact_shape) * dy.itemsize + STRIP
    extra = peak_extra(ways[best], scale) / allowed
    yield line(f"{PRODUCT}{what}: extra memory / (2 compact gradients + a strip)", extra, implementation=best)


def close(found: Tensor, exact: Tensor) -> None:
    error = float((found.double() - exact).norm() / exact.norm())
    if not error < 1e-2:
        raise AssertionError(f"{error:.1e} from float64's gradient")


def peak_extra(call: Callable[[], object], scale: Scale) -> float:
    """Bytes allocated at most during the call."""
    if not scale.on_gpu:
        return math.nan
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    return torch.cuda.max_memory_allocated() - before


if __name__ == "__main__":
    run_part("products", __doc__, rows)
