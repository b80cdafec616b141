"""Exact copies between a dense weight and its compact values."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from ... import _cuda
from ..addresses import entries
from ..layout import Layout
from .arguments import stream


def gather(dense: Tensor, index: Tensor, layout: Sequence[int]) -> Tensor:
    dense = dense.contiguous()
    compact = Layout(*layout).new_compact(dense, index)
    with torch.cuda.device(dense.device):
        _cuda.gather(dense.data_ptr(), entries(index, layout, compact), dense.itemsize, compact.data_ptr(), stream(dense.device))
    return compact


def scatter_(dense: Tensor, index: Tensor, layout: Sequence[int], values: Tensor) -> None:
    values = values.contiguous()
    with torch.cuda.device(dense.device):
        _cuda.scatter(dense.data_ptr(), entries(index, layout, values), dense.itemsize, values.data_ptr(), stream(dense.device))
    increment_version(dense)
