"""Exact copies between a dense weight and its compact values."""

from collections.abc import Sequence

from torch import Tensor

from ..layout import Layout


def gather(dense: Tensor, index: Tensor, layout: Sequence[int]) -> Tensor:
    return dense.reshape(-1)[Layout(*layout).flat_index(index)]


def scatter_(dense: Tensor, index: Tensor, layout: Sequence[int], values: Tensor) -> None:
    flat = Layout(*layout).flat_index(index)
    dense.view(-1)[flat] = values
