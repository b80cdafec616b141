"""`Shard`: what one process holds of a weight that FSDP2 has divided by rows, and which selected entries lie there."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from . import ops
from .selection import Entries


class Group(Protocol):
    """The module whose parameters FSDP2 gathers together."""

    def reshard(self) -> None: ...


class Shard:
    """Rows ``begin`` to ``end`` of a divided weight, and the part of its compact values that belongs there.

    A kernel is given this process's rows as a tensor of their own, and the entries in these rows alone: it cannot reach any
    other memory.

    Attributes:
        entries: those of the weight that lie in these rows, numbered from ``begin`` on.
        entries_of_all: those of the whole weight.
    """

    def __init__(
        self, module: nn.Module, name: str, entries: Entries, begin: int, end: int, owner: Group, processes: dist.ProcessGroup
    ):
        self._module, self._name, self._owner, self._processes = module, name, owner, processes
        self.entries_of_all = entries
        self.entries, self._part = rows_of(entries, begin, end)

    @property
    def parameter(self) -> nn.Parameter:
        """The divided weight; nobody has gathered it."""
        self._owner.reshard()  # what is written while it is gathered would be lost
        found = self._module._parameters[self._name]
        assert found is not None
        return found

    @property
    def local(self) -> Tensor:
        """This process's rows ``(end - begin, columns)``: the memory itself."""
        return self.parameter.detach().to_local()  # type: ignore[operator]

    def write(self, values: Tensor) -> None:
        """Writes what of the compact values lies in these rows."""
        if self.entries.count:
            ops.scatter_(self.local, self.entries, self._of(values.detach()))

    def gathered(self) -> Tensor:
        """The compact values of the whole weight, each from the process that holds it. All processes must call it.

        Bits are added up, and all but one process give zeros: nothing is rounded, and a negative zero stays one.
        """
        local = self.local
        found = local.new_zeros(self.entries_of_all.compact_shape)
        if self.entries.count:
            own = ops.gather(local, self.entries)
            if isinstance(self._part, slice):
                found[self._part] = own
            else:
                found.view(-1)[self._part] = own
        dist.all_reduce(found.view(torch.uint8), group=self._processes)
        return found

    def _of(self, values: Tensor) -> Tensor:
        return values[self._part] if isinstance(self._part, slice) else values.flatten()[self._part]


def divided(model: nn.Module) -> bool:
    """Whether weights of a model are divided over processes: DTensors, which alone have placements."""
    return any(hasattr(parameter, "placements") for parameter in model.parameters())


class Divided(Protocol):
    """A model whose weights have been divided, by the names of those that are trained in part."""

    shards: dict[str, Shard]

    def release(self) -> None: ...


def rows_of(entries: Entries, begin: int, end: int) -> tuple[Entries, slice | Tensor]:
    """The entries in some rows of the weight, numbered from there on, and where they stand among the compact values.

    That is a slice of the first dimension; where the rows cut through blocks, they are elements, of the values laid flat.
    """
    shape, layout, index = (end - begin, entries.shape[1]), entries.layout, entries._held
    if entries.kind == "columns":
        return Entries(entries.kind, index, shape), slice(begin, end)
    height, units = {"rows": (1, 1), "elements": (1, shape[1])}.get(entries.kind, (layout.block_rows, 0))
    if entries.kind == "blocks":
        if begin % height or end % height:
            return _elements_of(entries, begin, shape)
        units = shape[1] // layout.block_columns
    first, past = begin // height * units, end // height * units
    low, high = torch.searchsorted(index, index.new_tensor([first, past])).tolist()
    return Entries.of(entries.kind, index[low:high] - first, shape, entries.block), slice(low, high)


def _elements_of(entries: Entries, begin: int, shape: tuple[int, int]) -> tuple[Entries, Tensor]:
    flat = entries.flat_index().flatten() - begin * shape[1]
    places = ((flat >= 0) & (flat < shape[0] * shape[1])).nonzero().flatten()
    places = places[flat[places].argsort()]
    return Entries.of("elements", flat[places], shape), places
