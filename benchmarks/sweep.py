"""``python -m benchmarks.sweep``: time of `weight_grad` over density, for every implementation that can run here.

Kinds x dtypes x sizes x densities, each beside the plain way, dense product + gather. Results are checked before they are
timed; caches are flushed, as what a backward pass reads was written long before. ``results/<device>/sweep.json`` is what
``python -m benchmarks.rule`` makes the rule for `auto` of, and ``python -m benchmarks.plot`` a picture.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from rich.progress import track
from torch import Tensor

from clm_kernels import ops
from clm_kernels.measure import bench
from clm_kernels.measure.bench.cases import close, some_entries
from clm_kernels.ops.registry import DEVICES, HAS, MODULES, implementation
from clm_kernels.selection import Entries

from .common import folder, machine, write

PLAIN = "dense + gather"
DENSITIES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 0.6, 1.0)
SIZES = {  # (model shape, tokens)
    "cpu": (("MiniLM", 128), ("MiniLM", 1024), ("BERT-base", 1024)),
    "cuda": (("MiniLM", 1024), ("BERT-base", 8192), ("Llama-2-7B", 8192)),
}
SECONDS = {"cpu": 0.8, "cuda": 0.1}  # that the timed rounds of one cell take, about
ROUNDS = (3, 15)
SAMPLED_BYTES = 1 << 36  # of operands read for single elements, beyond which Triton's sampled products are left out


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweep", description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true", help="one size, three densities, three rounds: to see that it works")
    parser.add_argument("--short", action="store_true", help="every size, three densities")
    parser.add_argument("--output", type=Path, help="JSON file; by default benchmarks/results/<device>/sweep.json")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    path = arguments.output or folder(device) / "sweep.json"
    keep(device, path, arguments.quick, arguments.short)
    print(f"saved: {path}")


def keep(device: torch.device, path: Path, quick: bool, short: bool) -> None:
    """Writes every row as soon as it is there, so that a sweep that is cut off leaves what it has."""
    stored = {"machine": machine(device), "rows": []}
    for row in sweep(device, quick, short):
        stored["rows"].append(row)
        write(path, stored)


def sweep(device: torch.device, quick: bool = False, short: bool = False) -> Iterator[dict[str, object]]:
    """A row for each cell: kind, dtype, size, density, and median microseconds of each way.

    Raises:
        AssertionError: if an implementation's result is wrong.
    """
    sizes = SIZES[device.type][:1] if quick else SIZES[device.type]
    densities = DENSITIES[2::3] if quick or short else DENSITIES
    ways, timer, last = implementations(device), bench.Timer(device), {}
    cells = [(size, kind, density) for size in sizes for kind in bench.KINDS for density in densities]
    operands: dict[object, tuple[Tensor, Tensor, Tensor]] = {}
    for (shape, tokens), kind, density in track(cells, f"weight_grad, {', '.join(ways)}", transient=True):
        size = bench.SHAPES[shape]
        if (size, tokens) not in operands:
            operands = {(size, tokens): None} | {dtype: _operands(size, tokens, dtype, device) for dtype in bench.DTYPES}
        entries = some_entries(kind, size, density).to(device)
        known = {"kind": kind, "shape": shape, "size": size, "tokens": tokens, "work": tokens * math.prod(size)}
        if known.items() <= last.items() and last["density"] == entries.density:
            continue  # less than one unit more
        for dtype in bench.DTYPES:
            calls = _calls(ways, *operands[dtype], entries, tokens)
            rounds, seconds = ROUNDS[0], bench.rotated(calls, timer, 1, warm_up=1)
            if not quick:
                rounds = min(ROUNDS[1], max(rounds, round(SECONDS[device.type] / sum(map(sum, seconds.values())))))
            seconds = bench.rotated(calls, timer, rounds, warm_up=0)
            microseconds = {name: round(1e6 * statistics.median(taken), 2) for name, taken in seconds.items()}
            last = known | {"dtype": dtype, "density": entries.density, "rounds": rounds, "microseconds": microseconds}
            yield last


def implementations(device: torch.device) -> dict[str, Callable]:
    """`weight_grad` of every implementation that has it and can run on the device."""
    known: dict[str, Callable] = {}
    for name in MODULES:
        there = "weight_grad" in HAS[name] and DEVICES[name] in (None, device.type)
        if there and ops.why_not(name) is None and not ops.interpreted(name):
            with ops.backend(name):
                known[name] = implementation("weight_grad", device)
    return known


def _operands(size: tuple[int, int], tokens: int, dtype: str, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """dy, x and their dense product in float32."""
    generator = torch.Generator(device).manual_seed(0)
    dy, x = (torch.randn(tokens, n, generator=generator, device=device).to(bench.DTYPES[dtype]) for n in size)
    return dy, x, dy.float().T @ x.float()


def _calls(
    ways: dict[str, Callable], dy: Tensor, x: Tensor, dense: Tensor, entries: Entries, tokens: int
) -> dict[str, Callable[[], object]]:
    """The calls to be timed, each checked; without one that needs more memory than the device has."""
    index, layout = entries.index, entries.layout
    gather = implementation("gather", dy.device)
    calls = {PLAIN: lambda: gather(dy.T @ x, index, layout)}
    for name, function in ways.items():
        if name != "triton" or _sampled_bytes(entries, tokens) <= SAMPLED_BYTES:
            calls[name] = lambda function=function: function(dy, x, index, layout, dy.dtype)
    expected = ops.gather(dense, entries)
    for name, call in [*calls.items()]:
        try:
            result = call()
        except torch.OutOfMemoryError:
            del calls[name]
        else:
            close(result, expected, dy.dtype, tokens**0.5)
    return calls


def _sampled_bytes(entries: Entries, tokens: int) -> int:
    """Of the two operands that are read for every element."""
    return 8 * tokens * entries.index.numel() if entries.kind == "elements" else 0


if __name__ == "__main__":
    main()
