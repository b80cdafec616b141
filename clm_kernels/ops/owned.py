"""What a kernel reads by address is what was checked: indices that no caller can write, tensors that lie in their storage."""

from __future__ import annotations

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from .checks import check_index_values, refuse
from .layout import Layout

_seen = WeakTensorKeyDictionary()  # index -> what it was when it was checked, and the copy that kernels read: None for itself


def own(index: Tensor, layout: Layout) -> None:
    """Takes for checked an index that its holder has checked for this layout, and shows to nobody who may write there."""
    _seen[index] = _state(index, layout), None


def owned(op: str, index: Tensor, layout: Layout) -> Tensor:
    """The index as kernels may read it: a private copy, checked once for as long as nobody writes into the caller's.

    A write that torch does not see, through ``.data`` or numpy, changes nothing: the copy stays what was checked.

    Raises:
        ValueError: if it is not sorted and unique, or names what the layout has not.
    """
    if index.is_inference():  # such a tensor does not say that it has changed
        return _checked_copy(op, index, layout)
    state = _state(index, layout)
    known = _seen.get(index)
    if known is None or known[0] != state:
        known = _seen[index] = state, _checked_copy(op, index, layout)
    return index if known[1] is None else known[1]


def _state(index: Tensor, layout: Layout) -> tuple:
    return index._version, index.data_ptr(), index.shape, index.dtype, layout


def _checked_copy(op: str, index: Tensor, layout: Layout) -> Tensor:
    copy = index.detach().clone()
    check_index_values(op, copy, layout.units)
    return copy


def check_memory(op: str, argument: str, tensor: Tensor) -> None:
    """Raises ValueError for a tensor that reaches beyond its storage, which ``resize_`` of the storage has left too small."""
    if tensor.is_meta or not tensor.numel():
        return
    needed, held = tensor.storage_offset() * tensor.itemsize + _reach(tensor), tensor.untyped_storage().nbytes()
    if needed > held:
        refuse(op, argument, f"within its storage, {needed} bytes", f"a storage of {held}")


def overlap(a: Tensor, b: Tensor) -> bool:
    """Whether they may have bytes in common: whether the memory from the first to the last entry of each does."""
    if a.is_meta or b.is_meta or not (a.numel() and b.numel()):
        return False
    return a.data_ptr() < b.data_ptr() + _reach(b) and b.data_ptr() < a.data_ptr() + _reach(a)


def _reach(tensor: Tensor) -> int:
    """Bytes from the first entry to the end of the last one."""
    if tensor.is_contiguous():  # asked for at every backward: a third of the time
        return tensor.numel() * tensor.itemsize  # `nbytes` fails where dynamo traces a size as a symbol
    return (1 + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride()))) * tensor.itemsize
