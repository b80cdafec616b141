"""How an adapter's entries lie in its file, beside its values: tensors of whole numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import require
from ..fingerprint import fingerprint
from ..ops.layout import BLOCKS, KINDS, Layout
from ..selection import Entries


def layout_tensor(entries: Entries) -> Tensor:
    """``(5,)`` int64: kind, the weight's shape, a block's shape."""
    return torch.tensor(tuple(entries.layout))


def read_entries(index: Tensor, layout: Tensor, where: str) -> Entries:
    """The entries that an index and a layout tell, checked.

    Raises:
        ValueError: if they are damaged.
    """
    whole = layout.shape == (len(Layout._fields),) and layout.dtype == torch.int64
    require(whole, "ClmModel", f"the layout of {where!r}", "five whole numbers", f"{layout.dtype} of shape {tuple(layout.shape)}")
    kind, rows, columns, *block = Layout.checked("ClmModel", layout.tolist())
    return Entries(KINDS[kind], index.contiguous(), (rows, columns), tuple(block) if kind == BLOCKS else None)


def base_mark(values: Tensor) -> Tensor:
    """``(16,)`` uint8: what the base holds at an adapter's entries, in bfloat16, so that a base is known in either dtype.

    Zeros for a base in float16, of which another dtype holds other values.
    """
    if values.dtype == torch.float16:
        return torch.zeros(16, dtype=torch.uint8)
    return torch.tensor(list(bytes.fromhex(fingerprint(values.to(torch.bfloat16)))), dtype=torch.uint8)


def is_base(mark: Tensor, values: Tensor) -> bool:
    """Whether a base may be the one that was marked; always, where one of them has no mark."""
    own = base_mark(values)
    return not mark.any() or not own.any() or torch.equal(mark.cpu(), own)
