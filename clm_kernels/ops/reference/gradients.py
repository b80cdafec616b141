"""Compact gradients of linear and embedding weights."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..layout import COLUMNS, ROWS, Layout
from .movement import gather


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The type in which sums over tokens are kept."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def weight_grad(dy: Tensor, x: Tensor, index: Tensor, layout: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Of blocks and elements it builds the dense gradient, as no other implementation does."""
    layout, wide = Layout(*layout), accumulator(dy.dtype)
    dy, x = dy.to(wide), x.to(wide)  # (T, rows), (T, columns)
    if layout.kind == ROWS:
        compact = sliced(dy, index, layout.rows).T @ x  # (R, columns)
    elif layout.kind == COLUMNS:
        compact = dy.T @ sliced(x, index, layout.columns)  # (rows, C)
    else:
        compact = gather(dy.T @ x, index, layout)
    return compact.to(dtype)


def sliced(operand: Tensor, index: Tensor, size: int) -> Tensor:
    """The selected columns of `(T, size)`, or `operand` itself where it holds only those already."""
    return operand.index_select(1, index) if operand.shape[1] == size else operand


def embedding_grad(dy: Tensor, ids: Tensor, index: Tensor, layout: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Nothing of it depends on what a tensor holds, so that no host waits for a GPU."""
    rows, wide = index.numel(), accumulator(dy.dtype)
    compact = torch.zeros(rows, dy.shape[1], dtype=wide, device=dy.device)
    if rows == 0:
        return compact.to(dtype)
    index, ids = index.long(), ids.long().contiguous()
    position = torch.searchsorted(index, ids).clamp(max=rows - 1)
    selected = index[position] == ids
    dy = torch.where(selected[:, None], dy.to(wide), 0.0)
    position = torch.where(selected, position, torch.arange(len(ids), device=ids.device) % rows)  # zeros, spread over the rows
    # The one that adds in a fixed order on each device: index_put_ is atomic on the CPU, index_add_ on a GPU.
    if dy.device.type == "cpu":
        return compact.index_add_(0, position, dy).to(dtype)
    return compact.index_put_((position,), dy, accumulate=True).to(dtype)


def masked_grad_(grad: Tensor, dense_grad: Tensor, index: Tensor, layout: Sequence[int], scale: float) -> Tensor:
    wide = accumulator(grad.dtype)
    selected = dense_grad.reshape(-1)[Layout(*layout).flat_index(index)].to(wide) * scale
    grad.copy_(grad.to(wide) + selected)
    return (~torch.isfinite(selected)).any().to(torch.float32)
