"""Whether tensors are still what they were when a plan took their addresses."""

from __future__ import annotations

from torch import Tensor, UntypedStorage

# Functions of the class: a map over them stays in C, which makes them cheap enough for every step.
FORM = (Tensor.size, Tensor.is_contiguous, Tensor.dtype.__get__)


class Guard:
    """Notices every change of address, shape, order in memory, dtype or storage of the tensors, which it keeps alive.

    An address tells the device too, and the offset in the storage. What a plan reads is contiguous, so shape and
    contiguity tell the strides.

    Args:
        tensors: what a plan reads and writes.
        counters: of no dimension, read by torch alone: only whether they are still in their place.
    """

    def __init__(self, tensors: list[Tensor], counters: list[Tensor]):
        self.tensors, self.counters = tensors, counters
        self.storages = [tensor.untyped_storage() for tensor in tensors]
        self.was = self._now()

    def holds(self) -> bool:
        return self._now() == self.was

    def _now(self) -> list[list]:
        sizes = list(map(UntypedStorage.nbytes, self.storages))  # a storage can shrink under a tensor that says nothing of it
        places = [list(map(Tensor.data_ptr, tensors)) for tensors in (self.tensors, self.counters)]
        return [sizes, *places, *(list(map(read, self.tensors)) for read in FORM)]


def form(tensors: list[Tensor]) -> list[list]:
    """What an op checks of tensors that are others at every step: all but the address."""
    room = [tensor.untyped_storage().nbytes() for tensor in tensors]
    return [room, *(list(map(read, tensors)) for read in (*FORM, Tensor.storage_offset, Tensor.device.__get__))]
