"""Exact copies between a dense weight and its compact values."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from ... import _cuda
from ..layout import Layout
from .arguments import entries, stream


def gather(dense: Tensor, index: Tensor, layout: Sequence[int]) -> Tensor:
    dense = dense.contiguous()
    compact = dense.new_empty(Layout(*layout).compact_shape(index.numel()))
    with torch.cuda.device(dense.device):
        _cuda.gather(dense.data_ptr(), entries(index, layout), dense.itemsize, compact.data_ptr(), stream(dense.device))
    return compact


def scatter_(dense: Tensor, index: Tensor, layout: Sequence[int], values: Tensor) -> None:
    values = values.contiguous()
    with torch.cuda.device(dense.device):
        _cuda.scatter(dense.data_ptr(), entries(index, layout), dense.itemsize, values.data_ptr(), stream(dense.device))
    increment_version(dense)
