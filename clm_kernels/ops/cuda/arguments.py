"""Tensors as the CUDA kernels take them: addresses, codes, tables on the device, the current stream."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

import torch
from torch import Tensor

from ..upload import upload

DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}  # Dtype in csrc/cuda/kernels.h
NO_ARRAY = (0, 0)
DTYPE_OF = attrgetter("dtype")


def array(tensor: Tensor) -> tuple[int, int]:
    return tensor.data_ptr(), DTYPES[tensor.dtype]


def entries(index: Tensor, layout: Sequence[int]) -> tuple[tuple[int, ...], int, int, int]:
    return tuple(layout), index.data_ptr(), index.itemsize, index.numel()


def stream(device: torch.device) -> int:
    return torch.cuda.current_stream(device).cuda_stream


def table(data: bytes, device: torch.device) -> Tensor:
    """The bytes on the device."""
    return torch.frombuffer(bytearray(data or b"\0"), dtype=torch.uint8).to(device)


class GradTable:
    """Addresses and dtypes of gradients, on the device: written anew only when they have changed."""

    def __init__(self, op: str, length: int, device: torch.device):
        self.op, self.known = op, None
        self.table = torch.empty(max(length, 1), 2, dtype=torch.int64, device=device)

    def address(self, grads: list[Tensor]) -> int:
        known = list(map(Tensor.data_ptr, grads)), list(map(DTYPE_OF, grads))
        if known != self.known:
            upload(self.op, "grads", self.table, torch.tensor(list(map(array, grads)), dtype=torch.int64, device="cpu"))
            self.known = known
        return self.table.data_ptr()
