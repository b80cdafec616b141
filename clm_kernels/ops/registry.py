"""Which implementation runs: the one place where they are registered, and the rule that chooses."""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

OPS = ("weight_grad", "embedding_grad", "gather", "scatter_", "masked_grad_", "AdamWPlan")
MODULES = {"reference": "clm_kernels.ops.reference", "cpu": "clm_kernels.ops.cpu", "triton": "clm_kernels.ops.triton"}
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICES = {"reference": None, "cpu": "cpu", "triton": "cpu" if INTERPRETED else "cuda"}  # None: any

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


def chosen(device: torch.device) -> str:
    """The implementation that `auto`, or whoever asked for one by name, takes on this device.

    `auto` takes the C++ kernels for tensors on the CPU where they were built, and the reference elsewhere.
    """
    return _choose(_wanted, device.type)


def _choose(wanted: str, device: str) -> str:
    if wanted == "auto":
        return "cpu" if device == "cpu" and why_not("cpu") is None else "reference"
    if DEVICES[_known(wanted)] not in (None, device):
        raise RuntimeError(f"clm_kernels: the implementation {wanted!r} runs on {DEVICES[wanted]} only, got tensors on {device}")
    return wanted


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
    return getattr(_module(_wanted, device.type), op)


@functools.cache
def _module(wanted: str, device: str):
    return _load(_choose(wanted, device))


def _known(name: str) -> str:
    if name not in MODULES:
        raise ValueError(f"clm_kernels: the backend must be auto, {' or '.join(MODULES)}, got {name!r}")
    return name
