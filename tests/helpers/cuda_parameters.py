"""Tensors for `AdamWPlan`: parameters of every kind, and two copies of them, one for each implementation."""

from __future__ import annotations

import torch
from oracles import assert_same_bits, entries_of, pick
from tolerances import assert_close
from torch import Tensor

from clm_kernels.ops import reference
from clm_kernels.ops.parameters import Parameters

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
    """value, exp_avg, exp_avg_sq, max_exp_avg_sq, master, anchor, dense, index; and the layout."""
    dense, none = torch.randn(shape).to(dtype), torch.empty(0)
    entries = None if kind == "dense" else entries_of(kind, shape, "some", block)
    value = pick(dense, entries) if entries else dense.clone()
    moments = moments or (torch.float64 if dtype == torch.float64 else torch.float32)
    tensors = [
        value,
        0.1 * torch.randn(value.shape).to(moments),
        0.01 * torch.rand(value.shape).to(moments),
        0.01 * torch.rand(value.shape).to(moments) if amsgrad else none,
        value.float() if master and dtype in LOW else none,
        torch.randn(value.shape).to(dtype) if anchored else none,
        dense if entries else none,
    ]
    index = (entries.index.long() if wide_index else entries.index) if entries else none.int()
    tensors = [aligned(t, offset) if t.numel() else t for t in tensors]
    return [*tensors, index], tuple(entries.layout) if entries else (4, 0, 0, 0, 0)


def widened(parameters):
    """What the reference is to train: the same parameters in float32 (float64 for float64), so that it rounds nothing."""
    wide = [
        (
            [t.to(torch.float64 if tensors[0].dtype == torch.float64 else torch.float32, copy=True) for t in tensors[:7]],
            tensors[7],
            layout,
        )
        for tensors, layout in parameters
    ]
    return [([*tensors[:4], torch.empty(0), *tensors[5:], index], layout) for tensors, index, layout in wide]


def check_step(parameters, truth, before):
    """Compares after one step, and lets the truth go on from the rounded tensors; `before` are copies of the dense weights."""
    for (tensors, layout), (expected, _), dense in zip(parameters, truth, before, strict=True):
        value, index = tensors[0], tensors[7]
        for i in (0, 1, 2, 3):
            assert_close(tensors[i], expected[i])
        if tensors[4].numel():
            assert_close(tensors[4], expected[0])
            assert_same_bits(value, tensors[4].to(value.dtype))
        for i in (0, 1, 2, 3):
            expected[i].copy_(tensors[4] if i == 0 and tensors[4].numel() else tensors[i])
        if layout[0] != 4:
            reference.scatter_(dense, index, layout, value)
            assert_same_bits(tensors[6], dense)


def plan(make, parameters, amsgrad=False, maximize=False):
    lists = [list(column) for column in zip(*(tensors for tensors, _ in parameters), strict=True)]
    return make(Parameters(*lists, [number for _, layout in parameters for number in layout], amsgrad, maximize))


def settings(parameters, step=3.0):
    rows = [[0.01 * (i + 1), 0.9, 0.99, 1e-8, 0.1, step + i] for i in range(len(parameters))]
    return torch.tensor(rows, dtype=torch.float64, device="cpu")


def grads(parameters, offset=0):
    return [aligned(torch.randn(tensors[0].shape).to(tensors[0].dtype), offset) for tensors, _ in parameters]
