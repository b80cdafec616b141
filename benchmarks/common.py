"""Interleaved timing, what the machine is, and results as JSON."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from rich.progress import track

from clm_kernels.measure.bench.machine import provenance

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parent.parent


def interleaved(
    variants: Mapping[str, Callable[[], object]],
    rounds: int,
    warm_up: int = 5,
    ahead: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each variant in each round. Every round runs all of them, starting with another one each time.

    Each is run `ahead` times untimed right before it is timed, so that its data lies in the caches if it fits there;
    with 0 the caches hold what the variant before it has left. `clock` may be `time.process_time`, which others on the machine
    do not stop.
    """
    names = list(variants)
    for name in names:
        for _ in range(warm_up):
            variants[name]()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for i in track(range(rounds), description=f"{len(names)} variants", transient=True):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            for _ in range(ahead):
                variants[name]()
            start = clock()
            variants[name]()
            seconds[name].append(clock() - start)
    return seconds


def ratio(seconds: Mapping[str, list[float]], slow: str, fast: str) -> float:
    """Median over the rounds of how many times longer `slow` took than `fast`."""
    return statistics.median(s / f for s, f in zip(seconds[slow], seconds[fast], strict=True))


def medians(seconds: Mapping[str, list[float]]) -> dict[str, float]:
    """Median milliseconds of each variant."""
    return {name: 1e3 * statistics.median(values) for name, values in seconds.items()}


def machine(device: torch.device | str = "cpu") -> dict[str, object]:
    """Device, processor, versions and commit that a result belongs to."""
    return provenance(device)


def folder(device: torch.device | str) -> Path:
    """``results/cpu``, or ``results/<name of the GPU>``."""
    gpu = torch.device(device).type == "cuda"
    return RESULTS / (torch.cuda.get_device_name(device).replace(" ", "_") if gpu else "cpu")


def keep(name: str, rows: list[dict[str, object]]) -> None:
    """Writes ``results/cpu/<name>.json``: the machine, and a row for each number with what it should reach."""
    write(folder("cpu") / f"{name}.json", {"machine": machine(), "rows": rows})


def write(path: Path, stored: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.with_name(path.name + ".part")  # so that who reads it meanwhile finds the last whole one
    whole.write_text(json.dumps(stored, indent=1) + "\n")
    whole.replace(path)


def row(what: str, measured: float, reach: str, met: bool, **details: object) -> dict[str, object]:
    """One line of the table of numbers."""
    return {"what": what, "measured": round(float(measured), 3), "reach": reach, "met": bool(met), **details}
