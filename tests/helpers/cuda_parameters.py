"""Tensors for `AdamWPlan`: parameters of every kind, and two copies of them, one for each implementation."""

from __future__ import annotations

from collections import namedtuple

import torch
from oracles import assert_same_bits, entries_of, pick
from tolerances import assert_close
from torch import Tensor

from clm_kernels.ops import reference
from clm_kernels.ops.fields import TENSORS
from clm_kernels.ops.layout import DENSE, Layout
from clm_kernels.ops.parameters import Parameters

Tensors = namedtuple("Tensors", TENSORS)
LOW = (torch.bfloat16, torch.float16)
SHAPES = {  # 16-byte accesses fit the first; the second has odd runs; the third is longer than a chunk of 1024
    "even": ((16, 40), (4, 8)),
    "odd": ((15, 34), (5, 17)),
    "long": ((64, 136), (8, 4)),
}
VARIANTS = {
    "plain": {},
    "all options": {"amsgrad": True, "anchored": True},
    "unaligned": {"offset": 1},
    "int64 index": {"wide_index": True},
    "no master": {"master": False},
    "float16 moments": {"moments": torch.float16},
}


def aligned(tensor: Tensor, offset: int = 0) -> Tensor:
    """A copy that starts `offset` items after a multiple of 16 bytes."""
    buffer = torch.empty(tensor.numel() + 32, dtype=tensor.dtype)
    start = -(buffer.data_ptr() // tensor.itemsize) % (16 // tensor.itemsize) + offset
    return buffer[start : start + tensor.numel()].view(tensor.shape).copy_(tensor)


def parameter(kind, dtype, shape, block, amsgrad=False, anchored=False, master=True, moments=None, offset=0, wide_index=False):
    """`Tensors` of one parameter, and its layout."""
    dense, none = torch.randn(shape).to(dtype), torch.empty(0)
    entries = None if kind == "dense" else entries_of(kind, shape, "some", block)
    value = pick(dense, entries) if entries else dense.clone()
    moments = moments or (torch.float64 if dtype == torch.float64 else torch.float32)
    floats = {
        "values": value,
        "exp_avgs": 0.1 * torch.randn(value.shape).to(moments),
        "exp_avg_sqs": 0.01 * torch.rand(value.shape).to(moments),
        "max_exp_avg_sqs": 0.01 * torch.rand(value.shape).to(moments) if amsgrad else none,
        "masters": value.float() if master and dtype in LOW else none,
        "anchors": torch.randn(value.shape).to(dtype) if anchored else none,
        "denses": dense if entries else none,
    }
    floats = {name: aligned(tensor, offset) if tensor.numel() else tensor for name, tensor in floats.items()}
    index = (entries.index.long() if wide_index else entries.index) if entries else none.int()
    return Tensors(**floats, indices=index), entries.layout if entries else Layout(DENSE, 0, 0, 0, 0)


def widened(parameters):
    """What the reference is to train: the same parameters in float32 (float64 for float64), so that it rounds nothing."""
    truth = []
    for tensors, layout in parameters:
        wide = torch.float64 if tensors.values.dtype == torch.float64 else torch.float32
        copies = Tensors(*(tensor.to(wide, copy=True) for tensor in tensors))
        truth.append((copies._replace(masters=torch.empty(0), indices=tensors.indices), layout))
    return truth


def check_step(parameters, truth, before):
    """Compares after one step, and lets the truth go on from the rounded tensors; `before` are copies of the dense weights."""
    for (tensors, layout), (expected, _), dense in zip(parameters, truth, before, strict=True):
        states = ("exp_avgs", "exp_avg_sqs", "max_exp_avg_sqs")
        for name in ("values", *states):
            assert_close(getattr(tensors, name), getattr(expected, name))
        held = tensors.values
        if tensors.masters.numel():
            held = tensors.masters
            assert_close(held, expected.values)
            assert_same_bits(tensors.values, held.to(tensors.values.dtype))
        expected.values.copy_(held)
        for name in states:
            getattr(expected, name).copy_(getattr(tensors, name))
        if layout.kind != DENSE:
            reference.scatter_(dense, tensors.indices, layout, tensors.values)
            assert_same_bits(tensors.denses, dense)


def plan(make, parameters, amsgrad=False, maximize=False):
    lists = [list(column) for column in zip(*(tensors for tensors, _ in parameters), strict=True)]
    return make(Parameters(*lists, [number for _, layout in parameters for number in layout], amsgrad, maximize))


def settings(parameters, step=3.0):
    rows = [[0.01 * (i + 1), 0.9, 0.99, 1e-8, 0.1, step + i] for i in range(len(parameters))]
    return torch.tensor(rows, dtype=torch.float64, device="cpu")


def grads(parameters, offset=0):
    return [aligned(torch.randn(tensors.values.shape).to(tensors.values.dtype), offset) for tensors, _ in parameters]
