"""What a GPU is told about a step by the host, without waiting for the GPU."""

from __future__ import annotations

import torch
from torch import Tensor


def upload(op: str, argument: str, target: Tensor, source: Tensor) -> None:
    """Copies from the CPU.

    Page-locked memory comes from torch, which hands it out again only after the copy is done. A CUDA graph would read
    it at every replay, when it holds something else.
    """
    if target.device.type == "cpu":  # in Triton's interpreter
        target.copy_(source)
        return
    if torch.cuda.is_current_stream_capturing():
        raise RuntimeError(f"{op}: {argument} must be on the GPU, and unchanged, while a CUDA graph is captured")
    target.copy_(source.pin_memory(), non_blocking=True)
