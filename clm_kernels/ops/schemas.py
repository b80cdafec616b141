"""The ops as torch sees them: schema, fake and dispatch, for `torch.compile`, `opcheck` and every device."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import profiler

from . import checks
from .layout import Layout
from .parameters import Parameters
from .registry import implementation

SCHEMAS = (
    "weight_grad(Tensor dy, Tensor x, Tensor index, int[] layout, ScalarType dtype) -> Tensor",
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

library = torch.library.Library("clm_kernels", "DEF")
for schema in SCHEMAS:
    library.define(schema, tags=(torch.Tag.pt2_compliant_tag, torch.Tag.needs_fixed_stride_order))


def _dispatch(op: str):
    def run(first, *args, **kwargs):
        device = first.device
        if torch.is_autocast_enabled(device.type):  # it would round the operands of an implementation's products
            with torch.autocast(device.type, enabled=False):
                return implementation(op, device)(first, *args, **kwargs)
        return implementation(op, device)(first, *args, **kwargs)

    return run


def _adamw_step_(values, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, masters, anchors, denses, indices, layouts, settings,
                 amsgrad, maximize, grad_scale=None, found_inf=None, clip=None):  # fmt: skip
    tensors = (values, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, masters, anchors, denses, indices)
    plan = implementation("AdamWPlan", values[0].device)(Parameters(*tensors, layouts, amsgrad, maximize))
    plan(grads, settings, grad_scale, found_inf, clip)


for op in ("weight_grad", "embedding_grad", "gather", "scatter_", "masked_grad_", "sensitivity"):
    library.impl(op, _dispatch(op), "CompositeExplicitAutograd")
library.impl("adamw_step_", _adamw_step_, "CompositeExplicitAutograd")


def direct(op: str, like: Tensor) -> Callable:
    """The op without torch's dispatcher, which takes longer than a small op itself.

    It is the torch op where others may listen: under `torch.compile`, dispatch modes, and for tensor subclasses. torch's
    profiler sees it by name.
    """
    if torch.compiler.is_compiling() or type(like) is not Tensor or torch._C._len_torch_dispatch_stack():
        return getattr(torch.ops.clm_kernels, op)
    run = implementation(op, like.device)
    return _named(op, run) if profiler._is_profiler_enabled else run


def _named(op: str, run: Callable) -> Callable:
    def recorded(*args):
        with profiler.record_function(f"clm_kernels::{op}"):
            return run(*args)

    return recorded


def _compact(like: Tensor, index: Tensor, layout: list[int], dtype: torch.dtype) -> Tensor:
    return like.new_empty(Layout(*layout).compact_shape(index.shape[0]), dtype=dtype)


@torch.library.register_fake("clm_kernels::weight_grad", lib=library)
def _(dy, x, index, layout, dtype):
    checks.check_weight_grad(dy, x, index, Layout(*layout))
    checks.check_float_dtype("weight_grad", "dtype", dtype)
    return _compact(dy, index, layout, dtype)


@torch.library.register_fake("clm_kernels::embedding_grad", lib=library)
def _(dy, ids, index, layout, dtype):
    checks.check_embedding_grad(dy, ids, index, Layout(*layout))
    checks.check_float_dtype("embedding_grad", "dtype", dtype)
    return _compact(dy, index, layout, dtype)


@torch.library.register_fake("clm_kernels::gather", lib=library)
def _(dense, index, layout):
    checks.check_gather(dense, index, Layout(*layout))
    return _compact(dense, index, layout, dense.dtype)


@torch.library.register_fake("clm_kernels::scatter_", lib=library)
def _(dense, index, layout, values):
    checks.check_scatter(dense, index, Layout(*layout), values)


@torch.library.register_fake("clm_kernels::masked_grad_", lib=library)
def _(grad, dense_grad, index, layout, scale):
    checks.check_masked_grad(grad, dense_grad, index, Layout(*layout))
    return grad.new_empty((), dtype=torch.float32)


@torch.library.register_fake("clm_kernels::sensitivity", lib=library)
def _(dy, x, kind, weights=None):
    checks.check_sensitivity(dy, x, kind, weights)
    size = (dy if kind == "rows" else x).shape[2]
    return dy.new_empty(size, dtype=torch.float64 if dy.dtype == torch.float64 else torch.float32)


@torch.library.register_fake("clm_kernels::adamw_step_", lib=library)
def _(values, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, masters, anchors, denses, indices, layouts, settings,
      amsgrad, maximize, grad_scale=None, found_inf=None, clip=None):  # fmt: skip
    lists = {
        "grads": grads, "exp_avgs": exp_avgs, "exp_avg_sqs": exp_avg_sqs, "max_exp_avg_sqs": max_exp_avg_sqs,
        "masters": masters, "anchors": anchors, "denses": denses, "indices": indices,
    }  # fmt: skip
    checks.check_adamw_step(
        values, lists, denses, indices, layouts, settings, amsgrad, grad_scale=grad_scale, found_inf=found_inf, clip=clip
    )
