"""Compact gradients of linear and embedding weights."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..layout import BLOCKS, COLUMNS, ROWS, Layout


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The type in which sums over tokens are kept."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def weight_grad(dy: Tensor, x: Tensor, index: Tensor, layout: Sequence[int], dtype: torch.dtype) -> Tensor:
    layout, wide = Layout(*layout), accumulator(dy.dtype)
    dy, x = dy.to(wide), x.to(wide)  # (T, rows), (T, columns)
    at = index.long()
    if layout.kind == ROWS:
        compact = sliced(dy, at, layout.rows).T @ x  # (R, columns)
    elif layout.kind == COLUMNS:
        compact = dy.T @ sliced(x, at, layout.columns)  # (rows, C)
    elif layout.kind == BLOCKS:
        grid_columns = layout.columns // layout.block_columns
        dy = dy.unflatten(1, (-1, layout.block_rows))[:, at // grid_columns]  # (T, B, bm)
        x = x.unflatten(1, (-1, layout.block_columns))[:, at % grid_columns]  # (T, B, bn)
        compact = torch.einsum("tbm,tbn->bmn", dy, x)
    else:
        compact = (dy[:, at // layout.columns] * x[:, at % layout.columns]).sum(0)  # (nnz,)
    return compact.to(dtype)


def sliced(operand: Tensor, index: Tensor, size: int) -> Tensor:
    """The selected columns of `(T, size)`, or `operand` itself where it holds only those already."""
    return operand.index_select(1, index) if operand.shape[1] == size else operand


def embedding_grad(dy: Tensor, ids: Tensor, index: Tensor, layout: Sequence[int], dtype: torch.dtype) -> Tensor:
    compact = torch.zeros(index.numel(), dy.shape[1], dtype=accumulator(dy.dtype), device=dy.device)
    selected = torch.isin(ids, index)
    position = torch.searchsorted(index.long(), ids[selected].long())
    dy = dy[selected].to(compact.dtype)
    # The one that adds in a fixed order on each device: index_put_ is atomic on the CPU, index_add_ on a GPU.
    compact = (
        compact.index_add_(0, position, dy) if dy.device.type == "cpu" else compact.index_put_((position,), dy, accumulate=True)
    )
    return compact.to(dtype)


def masked_grad_(grad: Tensor, dense_grad: Tensor, index: Tensor, layout: Sequence[int], scale: float) -> Tensor:
    wide = accumulator(grad.dtype)
    selected = dense_grad.reshape(-1)[Layout(*layout).flat_index(index)].to(wide) * scale
    grad.copy_(grad.to(wide) + selected)
    return (~torch.isfinite(selected)).any().to(torch.float32)
