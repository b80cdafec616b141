"""Compact rows of an embedding's gradient: tokens sorted by id, so that every row is one segment, summed in token order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..layout import Layout
from .gradients import unit_columns
from .narrow import narrow


@triton.jit
def sum_segments(dy, token, begins, ends, out, width, dy_stride, COLUMNS: tl.constexpr):
    """``out[row] = sum of dy[token[s]]`` over the row's segment."""
    across = tl.cdiv(width, COLUMNS)
    row = tl.program_id(0) // across
    column = tl.program_id(0) % across * COLUMNS + tl.arange(0, COLUMNS)
    begin, end = tl.load(begins + row), tl.load(ends + row)
    sums = tl.zeros((COLUMNS,), dtype=tl.float32)
    for s in range(begin, end):
        t = tl.load(token + s)
        sums += tl.load(dy + t * dy_stride + column, mask=column < width, other=0.0).to(tl.float32)
    place = out + row.to(tl.int64) * width + column
    tl.store(place, narrow(sums, out.dtype.element_ty), mask=column < width)


def embedding_grad(dy: Tensor, ids: Tensor, index: Tensor, layout: Sequence[int], dtype: torch.dtype) -> Tensor:
    """As `ops.embedding_grad`, but for float64."""
    dy = unit_columns(dy)
    compact = Layout(*layout).new_compact(dy, index, dtype)
    if compact.numel() == 0 or ids.numel() == 0:
        return compact.zero_()
    ordered, token = torch.sort(ids.long(), stable=True)
    rows = index.long()
    begins, ends = torch.searchsorted(ordered, rows), torch.searchsorted(ordered, rows, right=True)
    width = dy.shape[1]
    step = min(256, triton.next_power_of_2(width))
    with torch.cuda.device_of(dy):
        programs = rows.numel() * triton.cdiv(width, step)
        sum_segments[(programs,)](dy, token, begins, ends, compact, width, dy.stride(0), COLUMNS=step)
    return compact
