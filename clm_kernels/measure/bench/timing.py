"""Time of a call, on the device's own clock where it has one, with caches flushed; and what the machine can do."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from .cases import Case
from .machine import provenance

FLUSH = 256 << 20  # bytes, more than any cache here
MARGIN, SLACK = 1.5, 1e-4  # a GPU waits this many times as long as the host took for a call, and seconds more
TRIES = 4  # with twice the wait each, where the host took longer than before


class Timer:
    """Seconds of a call: on a GPU, of the device alone, by events.

    Args:
        flush: writes more than the caches hold before each call.
        whole: on a GPU, what the caller waits: the host's time too, from an idle device until it is done. For steps that
            enqueue more kernels than a GPU's queue takes.
    """

    def __init__(self, device: torch.device, flush: bool = True, whole: bool = False):
        self.on_gpu, self.whole = device.type == "cuda", whole
        self.buffer = torch.empty(FLUSH, dtype=torch.int8, device=device) if flush else None
        self.cycles = _cycles_per_second() if self.on_gpu and not whole else 0.0

    def flush(self) -> None:
        """Drives everything else out of the caches."""
        if self.buffer is not None:
            self.buffer.zero_()

    def of(self, call: Callable[[], object]) -> Callable[[], float]:
        """A function that runs `call` once and returns its seconds."""
        if self.on_gpu and not self.whole:
            return self._by_events(call)

        def timed() -> float:
            self.flush()
            self._synchronize()
            start = time.perf_counter()
            call()
            self._synchronize()
            return time.perf_counter() - start

        return timed

    def _synchronize(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()

    def _by_events(self, call: Callable[[], object]) -> Callable[[], float]:
        """The GPU waits until the host has enqueued all of the call; were it idle in between, that would count."""
        first = wait = wait_for([_enqueueing(call) for _ in range(3)])
        tries = TRIES

        def timed() -> float:
            nonlocal wait, tries
            for _ in range(tries):
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                self.flush()
                torch.cuda._sleep(round(wait * self.cycles))
                start.record()
                call()
                end.record()
                enqueued_in_time = not start.query()
                end.synchronize()
                if enqueued_in_time:
                    break
                wait *= 2
            else:
                wait, tries = first, 1  # it waits for the GPU itself, which no wait before it hides
            return start.elapsed_time(end) / 1e3

        return timed


def wait_for(enqueueing: list[float]) -> float:
    """Seconds that a GPU waits before a call that the host enqueued in these seconds."""
    return MARGIN * max(enqueueing) + SLACK


def _enqueueing(call: Callable[[], object]) -> float:
    """Seconds of the host, with nothing in the GPU's queue."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    seconds = time.perf_counter() - start
    torch.cuda.synchronize()
    return seconds


def _cycles_per_second(cycles: int = 20_000_000) -> float:
    """Of the clock that `torch.cuda._sleep` counts, measured: it depends on the GPU and on how warm it is."""
    seconds = []
    for _ in range(3):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        torch.cuda._sleep(cycles)
        end.record()
        end.synchronize()
        seconds.append(start.elapsed_time(end) / 1e3)
    return cycles / min(seconds)


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
    timed = timer.of(call)
    return min(timed() for _ in range(rounds))


def rotated(calls: dict[str, Callable[[], object]], timer: Timer, rounds: int, warm_up: int = 3) -> dict[str, list[float]]:
    """Seconds of every call in every round; each round begins with another one."""
    for call in calls.values():
        for _ in range(warm_up):
            call()
    timed = {name: timer.of(call) for name, call in calls.items()}
    names, seconds = list(calls), {name: [] for name in calls}
    for i in range(rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            seconds[name].append(timed[name]())
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
