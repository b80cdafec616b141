"""Time of a call, on the device's own clock where it has one, with caches flushed; and what the machine can do."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from .cases import Case
from .provenance import provenance

FLUSH = 256 << 20  # bytes, more than any cache here
AHEAD = 500_000  # cycles, some 0.3 ms, that a GPU waits so that the host's time for a call passes before the call is timed


class Timer:
    """Seconds of one call, on a GPU by events. `flush` writes more than the caches hold before it."""

    def __init__(self, device: torch.device, flush: bool = True):
        self.device = device
        self.buffer = torch.empty(FLUSH, dtype=torch.int8, device=device) if flush else None

    def flush(self) -> None:
        """Drives everything else out of the caches."""
        if self.buffer is not None:
            self.buffer.zero_()

    def __call__(self, call: Callable[[], object]) -> float:
        self.flush()
        if self.device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda._sleep(AHEAD)
            start.record()
            call()
            end.record()
            end.synchronize()
            return start.elapsed_time(end) / 1e3
        start = time.perf_counter()
        call()
        return time.perf_counter() - start


@dataclass(frozen=True)
class Machine:
    """Measured rates: bytes a second of a copy (read and written), FLOP a second of a product, by dtype."""

    copy: float
    product: dict[str, float]

    @classmethod
    def measure(cls, device: torch.device, rounds: int = 7) -> Machine:
        timer = Timer(device, flush=False)
        source = torch.randn(64 << 20, device=device)  # a product of equal numbers is faster than one of real data
        target = torch.empty_like(source)
        size = 8192 if device.type == "cuda" else 1024
        product = {}
        for name in ("float32", "bfloat16"):
            a = torch.randn(size, size, device=device).to(getattr(torch, name))
            product[name] = 2 * size**3 / _fastest(timer, lambda a=a: a @ a, rounds)
        return cls(2 * source.nbytes / _fastest(timer, lambda: target.copy_(source), rounds), product)

    def described(self, device: torch.device) -> dict[str, object]:
        """The rates, with what was measured: for a file."""
        return provenance(device) | {"copy": self.copy, "product": self.product}


def _fastest(timer: Timer, call: Callable[[], object], rounds: int) -> float:
    call()
    return min(timer(call) for _ in range(rounds))


def rotated(calls: dict[str, Callable[[], object]], timer: Timer, rounds: int, warm_up: int = 3) -> dict[str, list[float]]:
    """Seconds of every call in every round; each round begins with another one."""
    for call in calls.values():
        for _ in range(warm_up):
            call()
    names, seconds = list(calls), {name: [] for name in calls}
    for i in range(rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            seconds[name].append(timer(calls[name]))
    return seconds


def measure(
    case: Case, machine: Machine, device: torch.device, rounds: int = 15, flush: bool = True, compiled: bool = False
) -> dict[str, object]:
    """Checks the case and its baselines, then times them in rotation; `compiled`: those under `torch.compile` as well.

    Returns:
        Median microseconds, GB/s, percent of the machine's copy and product rates, and the median ratio to each baseline.

    Raises:
        AssertionError: if the op's result or a baseline's is wrong; nothing is timed then.
    """
    case.check()
    baselines = dict(case.baselines)
    if compiled:
        baselines |= {name: make() for name, make in case.compiled.items()}
    for name, call in baselines.items():
        case.verify(name, call)
    seconds = rotated({"ours": case.run, **baselines}, Timer(device, flush), rounds)
    ours = statistics.median(seconds["ours"])
    ratios = {name: statistics.median(b / a for a, b in zip(seconds["ours"], seconds[name], strict=True)) for name in baselines}
    return {
        "op": case.op, "kind": case.kind, "dtype": case.dtype, "shape": case.shape, "tokens": case.tokens,
        "density": case.density, "implementation": case.implementation(device),
        "microseconds": 1e6 * ours, "bytes": case.bytes, "flop": case.flop, "GB/s": case.bytes / ours / 1e9,
        "% of copy": 100 * case.bytes / ours / machine.copy,
        "% of product": 100 * case.flop / ours / machine.product[case.dtype], "faster than": ratios,
    }  # fmt: skip
