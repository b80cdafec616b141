"""Tensors as the C++ kernels take them: addresses, strides and codes."""

from collections.abc import Sequence

import torch
from torch import Tensor

DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}  # Dtype in csrc/cpu/dtypes.h


def array(tensor: Tensor) -> tuple[int, int]:
    return tensor.data_ptr(), DTYPES[tensor.dtype]


def matrix(tensor: Tensor, sliced: bool = False) -> tuple[int, int, int, bool]:
    """`tensor` must come from `unit_columns`, and must be kept alive by the caller."""
    return tensor.data_ptr(), tensor.stride(0), DTYPES[tensor.dtype], sliced


def unit_columns(tensor: Tensor) -> Tensor:
    """The 2-D tensor itself where neighbours in a row lie side by side, else a contiguous copy."""
    return tensor if tensor.stride(1) == 1 or tensor.shape[1] == 1 else tensor.contiguous()


def entries(index: Tensor, layout: Sequence[int]) -> tuple[tuple[int, ...], int, int, int]:
    return tuple(layout), index.data_ptr(), index.itemsize, index.numel()
