"""Which implementation runs: the one place where they are registered, and the rule that chooses."""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import inf

import torch
from torch import Tensor

from .grouped import groups_of
from .layout import BLOCKS, KINDS, Layout
from .rule import TABLE

OPS = ("weight_grad", "embedding_grad", "gather", "scatter_", "masked_grad_", "sensitivity", "AdamWPlan")
MODULES = {name: f"clm_kernels.ops.{name}" for name in ("reference", "vendor", "cpu", "cuda", "triton")}
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICES = {"reference": None, "vendor": None, "cpu": "cpu", "cuda": "cuda"}  # None: any
DEVICES["triton"] = "cpu" if INTERPRETED else "cuda"

# What `auto` takes by device and op: the first that can run; the reference where nothing is listed. On devices that the
# measured `TABLE` knows, it decides for `weight_grad`, by kind, dtype and size, and this is for what cannot run here or was
# not measured. No GPU kernel of a product is listed before one is measured to beat the vendor's; the others do in one pass
# what torch does in several.
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

# Beside `TABLE`, for blocks that `groups_of` recognises as dealt groups. Measured on one core of Zen 4 that others used too, by
# processor time: of 8 groups of a weight 768 wide, gathered products take 0.75 to 0.97 of the C++ kernel's time (bfloat16, 4096
# tokens of 3072 x 768: 1.35), of 384 wide 0.86 to 1.7; of 10 groups or more, and of few tokens, 1.1 to 2.
# ``python -m benchmarks dealt`` measures 8 groups again; benchmarks/results/cpu/dealt.json.
GROUPS = len(KINDS)  # their number beside the kinds of a layout
GROUPED = {
    "cpu": dict.fromkeys(
        (("groups", "float32"), ("groups", "bfloat16")), ((1.1e8, inf, "cpu"), (inf, 0.11, "cpu"), (inf, inf, "vendor"))
    )
}

Bands = tuple[tuple[float, float, str], ...]  # work up to, density up to, implementation

_wanted = os.environ.get("CLM_KERNELS_BACKEND", "auto")  # on every thread: autograd has threads of its own


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Runs every op inside with the implementation `name`: one of `MODULES`, or ``"auto"``.

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


def chosen(
    device: torch.device,
    op: str = "AdamWPlan",
    kind: str | None = None,
    dtype: torch.dtype | None = None,
    work: float = 0,
    density: float = 0,
) -> str:
    """The implementation of `op` that `auto`, or whoever asked for one by name, takes on this device.

    `weight_grad` may depend on the call: `kind`, `dtype` of dy and x, `work` (tokens x rows x columns of the weight) and
    `density`. Without a kind, all that it can be there: ``"cpu or vendor"``.
    """
    if _wanted != "auto" or op != "weight_grad" or device.type not in TABLE:
        return _choose(_wanted, device.type, op)
    bands = rule(device.type)
    if kind is None:
        return " or ".join(dict.fromkeys(name for known in bands.values() for _, _, name in known))
    known = bands.get((kind, str(dtype).removeprefix("torch.")))
    return _pick(known, work, density) if known else _choose("auto", device.type, op)


def rule(device: str) -> dict[tuple[str, str], Bands]:
    """(kind, dtype) -> bands of `TABLE` and `GROUPED`, with `AUTO`'s choice in place of implementations that cannot run here."""
    otherwise = _choose("auto", device, "weight_grad")
    found = {}
    for key, bands in ({**TABLE[device], **GROUPED.get(device, {})} if device in TABLE else {}).items():
        able = [(work, density, name if _able(name, device) else otherwise) for work, density, name in bands]
        one = {name for _, _, name in able}
        found[key] = ((inf, inf, one.pop()),) if len(one) == 1 else tuple(able)
    return found


def _pick(bands: Bands, work: float, density: float):
    for most_work, most_density, implementation in bands:
        if work <= most_work and density <= most_density:
            return implementation
    return bands[-1][2]  # which has no end


def _able(name: str, device: str) -> bool:
    return DEVICES[name] in (None, device) and why_not(name) is None


def _choose(wanted: str, device: str, op: str) -> str:
    if wanted == "auto":
        return next((name for name in AUTO.get(device, {}).get(op, ()) if _able(name, device)), "reference")
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
    otherwise = getattr(_load(_choose(wanted, device, op)), op)
    if wanted != "auto" or op != "weight_grad":
        return otherwise
    by_size = {
        ((*KINDS, "groups").index(kind), getattr(torch, dtype)): tuple((w, d, _load(name).weight_grad) for w, d, name in bands)
        for (kind, dtype), bands in rule(device).items()
    }
    one = {key: bands[0][2] if len(bands) == 1 else None for key, bands in by_size.items()}
    return otherwise if set(one.values()) <= {otherwise} else _by_size(by_size, one, otherwise)


def _by_size(by_size: dict, one: dict[tuple[int, torch.dtype], Callable | None], otherwise: Callable) -> Callable:
    """`weight_grad` that looks at the call; at nothing but kind and dtype where there is `one` for all sizes."""

    def weight_grad(dy: Tensor, x: Tensor, index: Tensor, layout: Sequence[int], dtype: torch.dtype) -> Tensor:
        key = layout[0], dy.dtype
        if layout[0] == BLOCKS and (GROUPS, dy.dtype) in one and groups_of(index, layout) is not None:
            key = GROUPS, dy.dtype
        function = one.get(key, otherwise)
        if function is None:
            known = layout if type(layout) is Layout else Layout(*layout)
            function = _pick(by_size[key], dy.shape[0] * known[1] * known[2], index.shape[0] / max(1, known.units))
        return function(dy, x, index, layout, dtype)

    return weight_grad


def _known(name: str) -> str:
    if name not in MODULES:
        raise ValueError(f"clm_kernels: the backend must be auto, {' or '.join(MODULES)}, got {name!r}")
    return name
