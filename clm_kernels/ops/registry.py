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

OPS = (
    "weight_grad", "embedding_grad", "gather", "scatter_", "masked_grad_", "sensitivity", "active_tokens", "drawn_tokens",
    "input_grad", "active_weight_grad", "AdamWPlan",
)  # fmt: skip
MODULES = {name: f"clm_kernels.ops.{name}" for name in ("reference", "matmul", "cpu", "cuda", "triton")}
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICES = {"reference": None, "matmul": None, "cpu": "cpu", "cuda": "cuda"}  # None: any
DEVICES["triton"] = "cpu" if INTERPRETED else "cuda"

# The ops that each implementation has. None runs another one's in its place.
HAS = {
    "reference": OPS,
    "matmul": ("weight_grad", "sensitivity", "input_grad", "active_weight_grad"),
    "cpu": (
        "weight_grad",
        "embedding_grad",
        "gather",
        "scatter_",
        "masked_grad_",
        "active_tokens",
        "drawn_tokens",
        "input_grad",
        "active_weight_grad",
        "AdamWPlan",
    ),
    "cuda": ("gather", "scatter_", "masked_grad_", "AdamWPlan"),
    "triton": (
        "weight_grad",
        "embedding_grad",
        "sensitivity",
        "active_tokens",
        "drawn_tokens",
        "input_grad",
        "active_weight_grad",
        "AdamWPlan",
    ),
}

# Those of them that have no kernel for float64: accumulators of tensor cores are float32.
NOT_FLOAT64 = {"triton": ("weight_grad", "embedding_grad", "sensitivity", "input_grad", "active_weight_grad")}

# What `auto` takes, in this order: of `weight_grad`, on devices where it was measured, what `UNITS` says for few rows or
# columns, then what `TABLE` says by kind, dtype, size and density; for the other ops, and for what cannot run here or was not
# measured, the first of `AUTO` that can run; the reference where nothing is listed. No GPU kernel of a product is listed
# before one is measured to beat the vendor's; the others do in one pass what torch does in several. Active tokens are Triton's
# on a GPU: how many they are only the device knows, and the other ways wait for it, in every layer, so that no graph holds a step.
AUTO = {
    "cpu": dict.fromkeys(HAS["cpu"], ("cpu",))
    | {"weight_grad": ("cpu", "matmul"), "sensitivity": ("matmul",)}
    | dict.fromkeys(("input_grad", "active_weight_grad"), ("cpu", "matmul")),
    "cuda": {
        "weight_grad": ("matmul",),
        "sensitivity": ("matmul",),
        "active_tokens": ("triton",),
        "drawn_tokens": ("triton",),
        "input_grad": ("triton", "matmul"),
        "active_weight_grad": ("triton", "matmul"),
        "AdamWPlan": ("cuda", "triton"),
        "gather": ("cuda",),
        "scatter_": ("cuda",),
        "masked_grad_": ("cuda",),
    },
}

# Up to how many selected rows or columns which implementation was the fastest, where the result has the operands' dtype.
# Measured with 64 to 8192 tokens, a 768 x 3072 weight and 0.1 % to 10 % of it, on Zen 4: one row is a matrix-vector product,
# which torch does in half the C++ kernel's time. In bfloat16 oneDNN multiplies with AVX512-BF16, twice as fast as float32,
# and wins from 5 rows on, by 1.1 to 2.4 times; on a processor without it `TABLE` decides.
UNITS = {
    "cpu": {
        (kind, dtype): bands
        for kind in ("rows", "columns")
        for dtype, bands in {
            "float32": ((1, "matmul"),),
            "float64": ((1, "matmul"),),
            "bfloat16": ((4, "cpu"), (inf, "matmul")),
        }.items()
    }
}

# Beside `TABLE`, for blocks that `groups_of` recognises as dealt groups. Measured on one core of Zen 4 that others used too, by
# processor time: of 8 groups of a weight 768 wide, gathered products take 0.75 to 0.97 of the C++ kernel's time (bfloat16, 4096
# tokens of 3072 x 768: 1.35), of 384 wide 0.86 to 1.7; of 10 groups or more, and of few tokens, 1.1 to 2.
# ``python -m benchmarks dealt`` measures 8 groups again; benchmarks/results/cpu/dealt.json.
GROUPS = len(KINDS)  # their number beside the kinds of a layout
GROUPED = {
    "cpu": dict.fromkeys(
        (("groups", "float32"), ("groups", "bfloat16")), ((1.1e8, inf, "cpu"), (inf, 0.11, "cpu"), (inf, inf, "matmul"))
    )
}

# Up to how many tokens x rows x columns of the weight the C++ `input_grad` is faster in bfloat16 than the matrix library with
# AVX512-BF16; above it takes 1.2 to 2.4 times as long. In float32 it is always the faster one, by 1.02 to 2.8 times, unless the
# weight is a transposed view. Measured on one core of Zen 4 by processor time, with 1 to 256 active tokens of weights from
# 384 x 384 to 768 x 3072. What runs `weight_grad` of active tokens is what runs it for so many tokens, but for dealt groups: these
# are the C++ kernel's, which the gathered products take 0.96 to 3.9 times as long as (10 to 50 % of 128 to 512 tokens).
# The share of active tokens decides nothing: at 85 to 100 % the dense product whose inactive rows are then cleared takes 0.9 to 1.2
# times as long in bfloat16 as the gathered rows; in float32 the C++ kernel takes 0.7 to 1.05 of the dense product's time at 100 %
# (0.2 ms more for 512 tokens of 384 x 384 on two cores).
FEW_PRODUCTS = 5e6

Bands = tuple[tuple[float, float, str], ...]  # work up to, density up to, implementation

_wanted = os.environ.get("CLM_KERNELS_BACKEND", "auto")  # on every thread: autograd has threads of its own


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Runs every op inside with one implementation, on every thread.

    One that lacks an op raises RuntimeError when that is called. The environment variable ``CLM_KERNELS_BACKEND``, read at
    import, does the same for the whole process.

    Args:
        name: one of `MODULES`, or ``"auto"``, or several, ``"triton,reference"``, of which the first that has an op for the
            tensors' device runs it.

    Raises:
        ValueError: if there is no such implementation.
        RuntimeError: if it cannot run here, with the reason.
    """
    for one in _names(name):
        _load(one)
    global _wanted
    before, _wanted = _wanted, name
    try:
        yield
    finally:
        _wanted = before


def wanted() -> str:
    """The implementation that was asked for by name, or ``"auto"``."""
    return _wanted


def chosen(
    device: torch.device,
    op: str = "AdamWPlan",
    kind: str | None = None,
    dtype: torch.dtype | None = None,
    work: float = 0,
    density: float = 0,
    units: float = inf,
) -> str:
    """The implementation of `op` that `auto`, or whoever asked for one by name, takes on this device.

    Args:
        device: where the tensors are.
        op: name of the op; ``"AdamWPlan"`` is `adamw_step_`.
        kind: of the entries; what runs `weight_grad` may depend on it and on all that follows. Without a kind, all that
            it can be there: ``"cpu or matmul"``.
        dtype: of dy, x and the result.
        work: tokens x rows x columns of the weight.
        density: selected part of the weight.
        units: selected rows or columns.

    Raises:
        RuntimeError: if one was asked for by name that does not have the op, or not on this device.
    """
    if _wanted != "auto" or op != "weight_grad" or device.type not in TABLE:
        return _choose(_wanted, device.type, op)
    bands, few = rule(device.type), by_units(device.type)
    if kind is None:
        named = [name for known in (*bands.values(), *few.values()) for *_, name in known]
        return " or ".join(dict.fromkeys(named))
    key = kind, str(dtype).removeprefix("torch.")
    if units < inf and (name := _first(few.get(key, ()), units)):
        return name
    known = bands.get(key)
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


def by_units(device: str) -> dict[tuple[str, str], tuple[tuple[float, str], ...]]:
    """(kind, dtype) -> bands of `UNITS`, without those that do not hold on this processor."""
    return {
        (kind, dtype): bands
        for (kind, dtype), bands in UNITS.get(device, {}).items()
        if all(_able(name, device) for _, name in bands) and (dtype != "bfloat16" or bfloat16_products())
    }


def bfloat16_products() -> bool:
    """Whether this processor multiplies bfloat16 as fast as `UNITS` has it, as far as the C++ build tells."""
    return why_not("cpu") is None and _load("cpu").bfloat16_products


def _first(bands: Sequence[tuple[float, object]], units: float):
    return next((found for most, found in bands if units <= most), None)


def _pick(bands: Bands, work: float, density: float):
    for most_work, most_density, implementation in bands:
        if work <= most_work and density <= most_density:
            return implementation
    return bands[-1][2]  # which has no end


def _able(name: str, device: str) -> bool:
    return DEVICES[name] in (None, device) and why_not(name) is None


def _choose(wanted: str, device: str, op: str, float64: bool = False) -> str:
    def has_it(name: str) -> bool:
        return op in HAS.get(name, OPS) and not (float64 and op in NOT_FLOAT64.get(name, ()))

    if wanted == "auto":
        return next((name for name in AUTO.get(device, {}).get(op, ()) if has_it(name) and _able(name, device)), "reference")
    names = [name for name in _names(wanted) if DEVICES[name] in (None, device)]
    if not names:
        places = " or ".join(dict.fromkeys(DEVICES[name] for name in _names(wanted)))
        raise RuntimeError(f"clm_kernels: the implementation {wanted!r} runs on {places} only, got tensors on {device}")
    for name in names:
        if has_it(name):
            return name
    raise RuntimeError(
        f"clm_kernels: the implementation {wanted!r} has no {op.replace('AdamWPlan', 'adamw_step_')}"
        f"{' of float64' * float64}: ask for "
        f"'{wanted},{_choose('auto', device, op, float64)}', of which the first that has an op runs it, or for 'auto'"
    )


def interpreted(name: str) -> bool:
    """Whether an implementation's kernels run in Triton's interpreter, for tests of small sizes.

    Args:
        name: one of `MODULES`.
    """
    return name == "triton" and INTERPRETED


@functools.cache
def why_not(name: str) -> str | None:
    """Why an implementation cannot run here, or None if it can.

    Args:
        name: one of `MODULES`.

    Raises:
        ValueError: if there is no such implementation.
    """
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
    name = _choose(wanted, device, op)
    otherwise = getattr(_load(name), op)
    if op in NOT_FLOAT64.get(name, ()):
        return lambda dy, *rest: (_in_float64(wanted, device, op) if dy.dtype == torch.float64 else otherwise)(dy, *rest)
    if wanted == "auto" and op == "input_grad" and name == "cpu":
        return _input_grad(otherwise, _load("matmul").input_grad, bfloat16_products())
    if wanted != "auto" or op not in ("weight_grad", "active_weight_grad"):
        return otherwise

    def loaded(known: dict) -> dict:
        return {
            ((*KINDS, "groups").index(kind), getattr(torch, dtype)): tuple(
                (*upto, getattr(_load(name), op)) for *upto, name in bands
            )
            for (kind, dtype), bands in known.items()
        }

    by_size, few = loaded(rule(device)), loaded(by_units(device))
    one = {key: bands[0][2] if len(bands) == 1 else None for key, bands in by_size.items()}
    if op == "active_weight_grad":
        one |= {key: otherwise for key in one if key[0] == GROUPS}
    return otherwise if not few and set(one.values()) <= {otherwise} else _by_call(by_size, one, few, otherwise)


@functools.cache
def _in_float64(wanted: str, device: str, op: str) -> Callable:
    return getattr(_load(_choose(wanted, device, op, float64=True)), op)


def _input_grad(kernel: Callable, library: Callable, products: bool) -> Callable:
    """By the `kernel`, but for what the matrix `library` does faster; `products`: of bfloat16 too."""

    def input_grad(dy: Tensor, weight: Tensor, tokens: Tensor, count: Tensor) -> Tensor:
        transposed = weight.stride(1) != 1 and weight.shape[1] > 1
        many = products and dy.dtype == torch.bfloat16 and int(count) * weight.shape[0] * weight.shape[1] > FEW_PRODUCTS
        return (library if transposed or many else kernel)(dy, weight, tokens, count)

    return input_grad


def _by_call(by_size: dict, one: dict[tuple[int, torch.dtype], Callable | None], few: dict, otherwise: Callable) -> Callable:
    """`weight_grad` that looks at the call; where there is `one` for all sizes, at kind, dtype and `few` units alone.

    Of active tokens, which then come last, as many count.
    """

    def weight_grad(dy: Tensor, x: Tensor, index: Tensor, layout: Sequence[int], dtype: torch.dtype, *active: Tensor) -> Tensor:
        key = layout[0], dy.dtype
        if layout[0] == BLOCKS and (GROUPS, dy.dtype) in one and groups_of(index, layout) is not None:
            key = GROUPS, dy.dtype
        function = _first(few[key], index.shape[0]) if key in few and dtype == dy.dtype else None
        function = function or one.get(key, otherwise)
        if function is None:
            known = layout if type(layout) is Layout else Layout(*layout)
            tokens = int(active[1]) if active else dy.shape[0]
            function = _pick(by_size[key], tokens * known.rows * known.columns, index.shape[0] / max(1, known.units))
        return function(dy, x, index, layout, dtype, *active)

    return weight_grad


def _names(wanted: str) -> list[str]:
    return [] if wanted == "auto" else [_known(name) for name in wanted.split(",")]


def _known(name: str) -> str:
    if name not in MODULES:
        raise ValueError(f"clm_kernels: the backend must be auto, {' or '.join(MODULES)}, got {name!r}")
    return name
