"""What a patched model has learnt, as a `Delta`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from torch import Tensor, nn

from ..delta import Delta, read
from ..extension import Extension
from ..fingerprint import fingerprint
from ..models.conform import recipe_of
from ..models.heads import label_names
from ..models.structure import weights
from ..recipe import Recipe
from ..selection import Selection
from ..shards import Divided
from ..values import Values


class Patched(Protocol):
    """What is asked of a `Handle`."""

    model: nn.Module
    selection: Selection
    values: dict[str, Values]
    whole: dict[str, str]
    head: list[str]
    originals: dict[str, str]
    extension: Extension | None
    base: str
    sharded: Divided | None

    @property
    def patched(self) -> bool: ...


def delta_of(handle: Patched, labels: Iterable[str] | None, recipe: Recipe | None) -> Delta:
    """See `Handle.delta`."""
    named = weights(handle.model)
    if not all([*handle.whole.values(), *handle.originals.values()]):
        raise RuntimeError("Handle.delta: the model must have been patched in memory, got one of the meta device (dry)")
    held = {name: _held(handle, named, name).cpu() for name in handle.selection}
    for name in handle.selection:
        if handle.patched and fingerprint(handle.values[name]) != fingerprint(held[name]):
            raise RuntimeError(
                f"Handle.delta: the values of {name!r} are not what the model holds; train with SparseAdamW, or refresh() them"
            )
    selection = Selection((name, entries.to("cpu")) for name, entries in handle.selection.items())
    whole = {name: named[name].detach().cpu().clone() for name in handle.whole}
    marks = {name: mark for name, mark in handle.whole.items() if name not in handle.head}
    marks |= {name: handle.originals[name] for name in selection}
    names = label_names(handle.model) if labels is None else labels
    return Delta(selection, held, whole, marks, names, recipe_of(handle.model, recipe), handle.extension, handle.base)


def _held(handle: Patched, named: dict[str, Tensor], name: str) -> Tensor:
    """What the model holds at the selected entries of a weight."""
    if handle.sharded is not None:
        return handle.sharded.shards[name].gathered()
    return read(named[name], handle.selection[name])
