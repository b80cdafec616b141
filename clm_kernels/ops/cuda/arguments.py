"""What the CUDA kernels are told beside the tensors: tables on the device, the current stream."""

from __future__ import annotations

import torch
from torch import Tensor

from ..addresses import arrays, dtype_of
from ..fields import ARRAY
from ..upload import upload

NO_ARRAY = (0,) * len(ARRAY)


def stream(device: torch.device) -> int:
    return torch.cuda.current_stream(device).cuda_stream


def table(data: bytes, device: torch.device) -> Tensor:
    """The bytes on the device."""
    return torch.frombuffer(bytearray(data or b"\0"), dtype=torch.uint8).to(device)


class GradTable:
    """Addresses and dtypes of gradients, on the device: written anew only when they have changed."""

    def __init__(self, op: str, length: int, device: torch.device):
        self.op, self.known = op, None
        self.table = torch.empty(max(length, 1), len(ARRAY), dtype=torch.int64, device=device)

    def address(self, grads: list[Tensor]) -> int:
        known = list(map(Tensor.data_ptr, grads)), list(map(dtype_of, grads))
        if known != self.known:
            upload(self.op, "grads", self.table, torch.tensor(arrays(grads), dtype=torch.int64, device="cpu"))
            self.known = known
        return self.table.data_ptr()
