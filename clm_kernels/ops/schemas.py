"""The ops as torch sees them: schema, fake and dispatch, for `torch.compile`, `opcheck` and every device."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd import profiler

from . import checks
from .layout import DENSE, Layout
from .owned import check_memory, overlap, owned
from .parameters import Parameters
from .registry import implementation

SCHEMAS = (
    "weight_grad(Tensor dy, Tensor x, Tensor index, int[] layout, ScalarType dtype, Tensor? tokens=None, "
    "Tensor? count=None) -> Tensor",
    "active_tokens(Tensor dy, float part, bool counted) -> (Tensor, Tensor)",
    "drawn_tokens(Tensor dy, float noise, Tensor start) -> (Tensor, Tensor, Tensor)",
    "input_grad(Tensor dy, Tensor weight, Tensor tokens, Tensor count) -> Tensor",
    "embedding_grad(Tensor dy, Tensor ids, Tensor index, int[] layout, ScalarType dtype) -> Tensor",
    "gather(Tensor dense, Tensor index, int[] layout) -> Tensor",
    "scatter_(Tensor(a!) dense, Tensor index, int[] layout, Tensor values) -> ()",
    "masked_grad_(Tensor(a!) grad, Tensor dense_grad, Tensor index, int[] layout, float scale) -> Tensor",
    "sensitivity(Tensor dy, Tensor x, str kind, Tensor? weights=None) -> Tensor",
    "adamw_step_(Tensor(a!)[] values, Tensor(b!)[] grads, Tensor(c!)[] exp_avgs, Tensor(d!)[] exp_avg_sqs, "
    "Tensor(e!)[] max_exp_avg_sqs, Tensor(f!)[] masters, Tensor[] anchors, Tensor(g!)[] denses, Tensor[] indices, "
    "int[] layouts, Tensor settings, bool amsgrad, bool maximize, Tensor? grad_scale=None, Tensor? found_inf=None, "
    "Tensor? clip=None) -> ()",
)

LISTS = ("grads", "exp_avgs", "exp_avg_sqs", "max_exp_avg_sqs", "masters", "anchors", "denses", "indices")
library = torch.library.Library("clm_kernels", "DEF")
for schema in SCHEMAS:
    library.define(schema, tags=(torch.Tag.pt2_compliant_tag, torch.Tag.needs_fixed_stride_order))


CHECKS = {
    "weight_grad": checks.check_weight_grad,
    "active_tokens": checks.check_active_tokens,
    "drawn_tokens": checks.check_drawn_tokens,
    "input_grad": checks.check_input_grad,
    "embedding_grad": checks.check_embedding_grad,
    "gather": checks.check_gather,
    "scatter_": checks.check_scatter,
    "masked_grad_": checks.check_masked_grad,
    "sensitivity": checks.check_sensitivity,
}


ARGUMENTS = {op: [each.name for each in getattr(torch.ops.clm_kernels, op).default._schema.arguments] for op in CHECKS}


def _check_memories(op: str, args: tuple) -> None:
    for argument, arg in zip(ARGUMENTS[op], args):
        if isinstance(arg, Tensor):
            check_memory(op, argument, arg)


def _checked(op: str, arguments: Sequence[str], args: tuple) -> tuple:
    """The args of real tensors, with an index and a layout that nobody can change any more."""
    _check_memories(op, args)
    if "index" in arguments:
        at = arguments.index("index")
        checks.check_index(op, args[at], args[0])
        layout = Layout.checked(op, args[at + 1])
        args = (*args[:at], owned(op, args[at], layout), layout, *args[at + 2 :])
    CHECKS[op](*args)
    if "tokens" in arguments and len(args) > (at := arguments.index("tokens")) and args[at] is not None:
        checks.check_token_values(op, args[at], args[at + 1])
    if op == "scatter_" and overlap(args[0], args[3]):
        args = (*args[:3], args[3].clone())
    return args


def _dispatch(op: str):
    return lambda *args: _run(op, *_checked(op, ARGUMENTS[op], args))


def _run(op: str, *args):
    device = args[0].device
    if op == "weight_grad" and len(args) > 5:
        op, args = ("weight_grad", args[:5]) if args[5] is None else ("active_weight_grad", args)
    if torch.is_autocast_enabled(device.type):  # it would round the operands of an implementation's products
        with torch.autocast(device.type, enabled=False):
            return implementation(op, device)(*args)
    return implementation(op, device)(*args)


def _run_directly(op: str, first: Tensor, second, *args):
    CHECKS[op](first, second, *args)
    _check_memories(op, (first, second, *args))
    # The imaginary part of a conjugate is negative by a mark alone, which the dispatcher would resolve.
    first = first.resolve_neg()
    if isinstance(second, Tensor):
        second = second.resolve_neg()
    return _run(op, first, second, *args)


def _adamw_step_(values, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, masters, anchors, denses, indices, layouts, settings,
                 amsgrad, maximize, grad_scale=None, found_inf=None, clip=None):  # fmt: skip
    op, lists = (
        "adamw_step_",
        dict(zip(LISTS, (grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, masters, anchors, denses, indices))),
    )
    scalars = {"grad_scale": grad_scale, "found_inf": found_inf, "clip": clip}
    checks.check_adamw_step(values, lists, layouts, settings, amsgrad, **scalars)
    if not values:
        return
    single = {name: [tensor] for name, tensor in scalars.items() if tensor is not None}
    for name, tensors in ({"values": values, "settings": [settings]} | single | lists).items():
        for i, tensor in enumerate(tensors):
            check_memory(op, f"{name}[{i}]", tensor)
    every = Layout.every(layouts)
    for i, (value, dense, layout) in enumerate(zip(values, denses, every)):
        if layout.kind != DENSE and overlap(value, dense):
            checks.refuse(op, f"values[{i}]", "in memory of their own", "a part of the dense weight")
    indices = [
        index if layout.kind == DENSE else owned(f"{op}[{i}]", index, layout)
        for i, (index, layout) in enumerate(zip(indices, every))
    ]
    tensors = (values, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, masters, anchors, denses, indices)
    plan = implementation("AdamWPlan", values[0].device)(Parameters(*tensors, layouts, amsgrad, maximize))
    plan(grads, settings, grad_scale, found_inf, clip)


for op in CHECKS:
    library.impl(op, _dispatch(op), "CompositeExplicitAutograd")
library.impl("adamw_step_", _adamw_step_, "CompositeExplicitAutograd")


def direct(op: str, like: Tensor) -> Callable:
    """The op without torch's dispatcher, which takes longer than a small op itself.

    It is the torch op where others may listen: under `torch.compile`, dispatch modes, and for tensor subclasses. torch's
    profiler sees it by name. Operands are checked, as hooks and `resize_` reach what autograd has saved; an index must be one
    that nobody else has.
    """
    if torch.compiler.is_compiling() or type(like) is not Tensor or torch._C._len_torch_dispatch_stack():
        return getattr(torch.ops.clm_kernels, op)
    run = functools.partial(_run_directly, op)
    return _named(op, run) if profiler._is_profiler_enabled else run


def _named(op: str, run: Callable) -> Callable:
    def recorded(*args):
        with profiler.record_function(f"clm_kernels::{op}"):
            return run(*args)

    return recorded


def _fake(op: str, *args) -> Layout:
    """Checks what can be checked without reading a tensor."""
    at = next(i for i, arg in enumerate(args) if isinstance(arg, (list, tuple)))
    layout = Layout.checked(op, args[at])
    CHECKS[op](*args[:at], layout, *args[at + 1 :])
    return layout


@torch.library.register_fake("clm_kernels::weight_grad", lib=library)
def _(dy, x, index, layout, dtype, tokens=None, count=None):
    return _fake("weight_grad", dy, x, index, layout, dtype, tokens, count).new_compact(dy, index, dtype)


@torch.library.register_fake("clm_kernels::active_tokens", lib=library)
def _(dy, part, counted):
    checks.check_active_tokens(dy, part, counted)
    return dy.new_empty(dy.shape[0], dtype=torch.int64), dy.new_empty((), dtype=torch.int64)


@torch.library.register_fake("clm_kernels::drawn_tokens", lib=library)
def _(dy, noise, start):
    checks.check_drawn_tokens(dy, noise, start)
    index, count = dy.new_empty(dy.shape[0], dtype=torch.int64), dy.new_empty((), dtype=torch.int64)
    return index, count, dy.new_empty(dy.shape[0], dtype=torch.float32)


@torch.library.register_fake("clm_kernels::input_grad", lib=library)
def _(dy, weight, tokens, count):
    checks.check_input_grad(dy, weight, tokens, count)
    return dy.new_empty(dy.shape[0], weight.shape[1])


@torch.library.register_fake("clm_kernels::embedding_grad", lib=library)
def _(dy, ids, index, layout, dtype):
    return _fake("embedding_grad", dy, ids, index, layout, dtype).new_compact(dy, index, dtype)


@torch.library.register_fake("clm_kernels::gather", lib=library)
def _(dense, index, layout):
    return _fake("gather", dense, index, layout).new_compact(dense, index)


@torch.library.register_fake("clm_kernels::scatter_", lib=library)
def _(dense, index, layout, values):
    _fake("scatter_", dense, index, layout, values)


@torch.library.register_fake("clm_kernels::masked_grad_", lib=library)
def _(grad, dense_grad, index, layout, scale):
    _fake("masked_grad_", grad, dense_grad, index, layout, scale)
    return grad.new_empty((), dtype=torch.float32)


@torch.library.register_fake("clm_kernels::sensitivity", lib=library)
def _(dy, x, kind, weights=None):
    checks.check_sensitivity(dy, x, kind, weights)
    size = (dy if kind == "rows" else x).shape[2]
    return dy.new_empty(size, dtype=torch.float64 if dy.dtype == torch.float64 else torch.float32)


@torch.library.register_fake("clm_kernels::adamw_step_", lib=library)
def _(values, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, masters, anchors, denses, indices, layouts, settings,
      amsgrad, maximize, grad_scale=None, found_inf=None, clip=None):  # fmt: skip
    lists = dict(zip(LISTS, (grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, masters, anchors, denses, indices)))
    scalars = {"grad_scale": grad_scale, "found_inf": found_inf, "clip": clip}
    checks.check_adamw_step(values, lists, layouts, settings, amsgrad, **scalars)
