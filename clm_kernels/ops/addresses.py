"""Tensors as the compiled kernels take them: tuples of ints, whose places `fields` names."""

from __future__ import annotations

from collections.abc import Sequence
from operator import add, attrgetter

import torch
from torch import Tensor

from . import fields
from .layout import Layout
from .parameters import Parameters

DTYPES = {getattr(torch, name): number for number, name in enumerate(fields.DTYPES)}
dtype_of, bytes_of = attrgetter("dtype"), attrgetter("itemsize")


def array(tensor: Tensor) -> tuple[int, int]:
    """`fields.ARRAY`."""
    return tensor.data_ptr(), DTYPES[tensor.dtype]


def arrays(tensors: Sequence[Tensor]) -> list[tuple[int, int]]:
    """`array` of each, at half the cost."""
    return list(zip(map(Tensor.data_ptr, tensors), map(DTYPES.__getitem__, map(dtype_of, tensors))))


def entries(index: Tensor, layout: Sequence[int], compact: Tensor) -> tuple[int, ...]:
    """`fields.ENTRIES` of the entries that `compact` holds."""
    return (*layout, index.data_ptr(), index.itemsize, index.numel(), compact.numel())


def every_entries(parameters: Parameters) -> list[tuple[int, ...]]:
    """`entries` of each parameter, at half the cost."""
    indices = parameters.indices
    counts, sizes = map(Tensor.numel, indices), map(Tensor.numel, parameters.values)
    held = zip(map(Tensor.data_ptr, indices), map(bytes_of, indices), counts, sizes)
    return list(map(add, Layout.every(parameters.layouts), held))


def plan_arguments(parameters: Parameters) -> dict[str, object]:
    """What `AdamWPlan` of a compiled module is made of."""
    return {
        "arrays": list(map(arrays, parameters.arrays)),
        "denses": list(map(Tensor.data_ptr, parameters.denses)),
        "entries": every_entries(parameters),
        "amsgrad": parameters.amsgrad,
        "maximize": parameters.maximize,
    }
