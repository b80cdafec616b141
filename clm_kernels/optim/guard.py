"""Whether tensors are still what they were when a plan took their addresses."""

from __future__ import annotations

from torch import Tensor, UntypedStorage

# Functions of the class: a map over them stays in C, which makes them cheap enough for every step.
FORM = (Tensor.size, Tensor.stride, Tensor.dtype.__get__)


class Guard:
    """Notices every change of address, shape, strides, dtype or storage of the tensors, which it keeps alive.

    An address tells the device too, and the offset in the storage.
    """

    def __init__(self, tensors: list[Tensor]):
        self.tensors = tensors
        self.storages = [tensor.untyped_storage() for tensor in tensors]
        self.was = self._now()

    def holds(self) -> bool:
        return self._now() == self.was

    def _now(self) -> list[list]:
        sizes = list(map(UntypedStorage.nbytes, self.storages))  # a storage can shrink under a tensor that says nothing of it
        return [sizes, list(map(Tensor.data_ptr, self.tensors)), *(list(map(read, self.tensors)) for read in FORM)]


def form(tensors: list[Tensor]) -> list[list]:
    """What an op checks of tensors that are others at every step: all but the address."""
    room = [tensor.untyped_storage().nbytes() for tensor in tensors]
    return [room, *(list(map(read, tensors)) for read in (*FORM, Tensor.storage_offset, Tensor.device.__get__))]
