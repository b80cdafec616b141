"""Exact copies between a dense weight and its compact values."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from ... import _cpu
from ..addresses import entries
from ..layout import Layout


def gather(dense: Tensor, index: Tensor, layout: Sequence[int]) -> Tensor:
    dense = dense.contiguous()
    compact = Layout(*layout).new_compact(dense, index)
    _cpu.gather(dense.data_ptr(), entries(index, layout, compact), dense.itemsize, compact.data_ptr(), torch.get_num_threads())
    return compact


def scatter_(dense: Tensor, index: Tensor, layout: Sequence[int], values: Tensor) -> None:
    values = values.contiguous()
    _cpu.scatter(dense.data_ptr(), entries(index, layout, values), dense.itemsize, values.data_ptr(), torch.get_num_threads())
    increment_version(dense)
