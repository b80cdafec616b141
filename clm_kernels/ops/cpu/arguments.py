"""Matrices as the C++ kernels take them."""

from torch import Tensor

from ..addresses import DTYPES


def matrix(tensor: Tensor, sliced: bool = False) -> tuple[int, int, int, bool]:
    """`fields.MATRIX`. `tensor` must come from `unit_columns`, and must be kept alive by the caller."""
    return tensor.data_ptr(), tensor.stride(0), DTYPES[tensor.dtype], sliced


def unit_columns(tensor: Tensor) -> Tensor:
    """The 2-D tensor itself where neighbours in a row lie side by side, else a contiguous copy."""
    return tensor if tensor.stride(1) == 1 or tensor.shape[1] == 1 else tensor.contiguous()
