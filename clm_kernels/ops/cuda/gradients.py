"""Compact gradients: read out of a dense one, and their norm."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from clm_kernels import _cuda

from .arguments import GradTable, array, entries, stream, table

CHUNK_BYTES = 16  # of struct Chunk in csrc/cuda/kernels.h


def masked_grad_(grad: Tensor, dense_grad: Tensor, index: Tensor, layout: Sequence[int], scale: float) -> Tensor:
    dense_grad = dense_grad.contiguous()
    found = grad.new_zeros((), dtype=torch.float32)
    with torch.cuda.device(grad.device):
        _cuda.masked_grad(array(grad), array(dense_grad), entries(index, layout), scale, found.data_ptr(), stream(grad.device))
    increment_version(grad)
    return found


class NormPlan:
    """`global_norm` of gradients of the same shapes again and again."""

    def __init__(self, like: list[Tensor]):
        self.device = like[0].device
        self.lengths = list(map(Tensor.numel, like))
        chunks = _cuda.chunks(self.lengths)
        self.count = len(chunks) // CHUNK_BYTES
        self.chunks = table(chunks, self.device)
        self.grads = GradTable("global_norm", len(like), self.device)
        self.partial = torch.empty(max(self.count, 1), dtype=torch.float64, device=self.device)

    def __call__(self, grads: list[Tensor]) -> Tensor:
        if list(map(Tensor.numel, grads)) != self.lengths:
            raise ValueError(f"global_norm: grads must be of lengths {self.lengths}, got {list(map(Tensor.numel, grads))}")
        norm = torch.empty((), dtype=torch.float32, device=self.device)
        with torch.cuda.device(self.device):
            _cuda.global_norm(
                self.chunks.data_ptr(), self.count, self.grads.address(grads), self.partial.data_ptr(), norm.data_ptr(),
                stream(self.device),
            )  # fmt: skip
        return norm


def global_norm(grads: list[Tensor]) -> Tensor:
    """L2 norm of all entries of contiguous `grads` on one GPU: 0-dim float32, summed in float64, the same bits at every run."""
    return NormPlan(grads)(grads)
