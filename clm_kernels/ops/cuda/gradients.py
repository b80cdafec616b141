"""Compact gradients, read out of a dense one."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from ... import _cuda
from ..addresses import array, entries
from .arguments import stream


def masked_grad_(grad: Tensor, dense_grad: Tensor, index: Tensor, layout: Sequence[int], scale: float) -> Tensor:
    dense_grad = dense_grad.contiguous()
    found = grad.new_zeros((), dtype=torch.float32)
    with torch.cuda.device(grad.device):
        _cuda.masked_grad(
            array(grad), array(dense_grad), entries(index, layout, grad), scale, found.data_ptr(), stream(grad.device)
        )
    increment_version(grad)
    return found
