"""Which implementation runs: the one place where they are registered, and the rule that chooses."""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

OPS = ("weight_grad", "embedding_grad", "gather", "scatter_", "masked_grad_", "sensitivity", "AdamWPlan")
MODULES = {name: f"clm_kernels.ops.{name}" for name in ("reference", "vendor", "cpu", "cuda", "triton")}
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICES = {"reference": None, "vendor": None, "cpu": "cpu", "cuda": "cuda"}  # None: any
DEVICES["triton"] = "cpu" if INTERPRETED else "cuda"

# What `auto` takes by device and op: the first that can run; the reference where nothing is listed. No GPU kernel of a
# product is listed before one is measured to beat the vendor's; the others do in one pass what torch does in several.
AUTO = {
    "cpu": dict.fromkeys(OPS, ("cpu",)) | {"sensitivity": ("vendor",)},
    "cuda": {
        "weight_grad": ("vendor",),
        "sensitivity": ("vendor",),
        "AdamWPlan": ("cuda", "triton"),
        "gather": ("cuda",),
        "scatter_": ("cuda",),
        "masked_grad_": ("cuda",),
    },
}

_wanted = os.environ.get("CLM_KERNELS_BACKEND", "auto")  # on every thread: autograd has threads of its own


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Runs every op inside with the implementation `name`: ``"reference"``, ``"cpu"`` or ``"auto"``.

    On every thread. The environment variable ``CLM_KERNELS_BACKEND``, read at import, does the same for the whole process.

    Raises:
        ValueError: if there is no such implementation.
        RuntimeError: if it cannot run here, with the reason.
    """
    if name != "auto":
        _load(_known(name))
    global _wanted
    before, _wanted = _wanted, name
    try:
        yield
    finally:
        _wanted = before


def chosen(device: torch.device, op: str = "AdamWPlan") -> str:
    """The implementation of `op` that `auto`, or whoever asked for one by name, takes on this device."""
    return _choose(_wanted, device.type, op)


def _choose(wanted: str, device: str, op: str) -> str:
    if wanted == "auto":
        able = (name for name in AUTO.get(device, {}).get(op, ()) if DEVICES[name] in (None, device) and why_not(name) is None)
        return next(able, "reference")
    if DEVICES[_known(wanted)] not in (None, device):
        raise RuntimeError(f"clm_kernels: the implementation {wanted!r} runs on {DEVICES[wanted]} only, got tensors on {device}")
    return wanted


def interpreted(name: str) -> bool:
    """Whether the implementation's kernels run in Triton's interpreter, for tests of small sizes."""
    return name == "triton" and INTERPRETED


@functools.cache
def why_not(name: str) -> str | None:
    """Why the implementation cannot run here, or None if it can."""
    try:
        importlib.import_module(MODULES[_known(name)])
    except ImportError as error:
        return str(error)
    return None


@functools.cache
def _load(name: str):
    if reason := why_not(name):
        raise RuntimeError(f"clm_kernels: the implementation {name!r} cannot run here: {reason}")
    return importlib.import_module(MODULES[name])


def implementation(op: str, device: torch.device) -> Callable:
    """The function that runs `op` for tensors on `device`."""
    return _function(_wanted, device.type, op)


@functools.cache
def _function(wanted: str, device: str, op: str) -> Callable:
    return getattr(_load(_choose(wanted, device, op)), op)


def _known(name: str) -> str:
    if name not in MODULES:
        raise ValueError(f"clm_kernels: the backend must be auto, {' or '.join(MODULES)}, got {name!r}")
    return name
