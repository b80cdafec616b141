"""What tensors take while something runs, counted without memory: every storage from its making to its end."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Ledger(TorchDispatchMode):
    """Books each storage that an operation inside makes, and its release: what torch's allocator would see of it.

    Counted is what operations return. What a kernel takes for itself while it runs is not seen. Python that asks for a
    meta tensor's value, as in ``mask.all()``, is told "true", and all entries are nonzero: no batch has padding.

    Args:
        owned: tensors that there are already, which do not count.

    Attributes:
        entries: (number of the storage, bytes) in order; bytes are negative where it is released.
    """

    def __init__(self, owned: Iterable[Tensor] = ()):
        super().__init__()
        self.entries: list[tuple[int, int]] = []
        self._numbers = itertools.count()
        self._known: dict[int, tuple[int, object]] = {}  # address of the storage -> its number, and what keeps or watches it
        for storage in map(Tensor.untyped_storage, owned):
            self._known[storage._cdata] = next(self._numbers), storage

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        if op is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return True
        if op is torch.ops.aten.nonzero.default and args[0].is_meta:
            made = args[0].new_empty((args[0].numel(), args[0].dim()), dtype=torch.long)
        else:
            made = op(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._book(tensor.untyped_storage())
        return made

    def _book(self, storage: torch.UntypedStorage) -> None:
        address, size = storage._cdata, storage.nbytes()
        if address in self._known:
            return
        number = next(self._numbers)

        def release(_) -> None:
            del self._known[address]
            self.entries.append((number, -size))

        self._known[address] = number, weakref.ref(storage, release)
        self.entries.append((number, size))

    def number(self, tensor: Tensor) -> int:
        """The number of a tensor's storage."""
        return self._known[tensor.untyped_storage()._cdata][0]

    def alive(self, end: int, start: int = 0) -> dict[int, int]:
        """Number -> bytes of the storages made from entry `start` on that there are before entry `end`."""
        found: dict[int, int] = {}
        for number, size in self.entries[start:end]:
            if size < 0:
                found.pop(number, None)
            else:
                found[number] = size
        return found

    def fullest(self, start: int) -> int:
        """The entry after which the storages made from `start` on take the most."""
        held = list(itertools.accumulate(self._since(start)))
        return start + max(range(len(held)), key=held.__getitem__) + 1

    def _since(self, start: int) -> Iterator[int]:
        """Bytes that each entry from `start` on adds; nothing for a storage from before."""
        made: set[int] = set()
        for number, size in self.entries[start:]:
            if size >= 0:
                made.add(number)
            yield size if number in made else 0


def size_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of their storages, each once."""
    return sum({storage._cdata: storage.nbytes() for storage in map(Tensor.untyped_storage, tensors)}.values())
