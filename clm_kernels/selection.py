"""What is trained: `Entries` of one dense weight, and a `Selection` of them by weight name."""

from __future__ import annotations

import json
import math
import operator
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .errors import require
from .ops.checks import check_index_values
from .ops.layout import KINDS, Layout
from .ops.owned import own
from .strangers import brief, fits, inside, parse_json
from .tensors import read_tensors, write_tensors

FORMAT = "clm_kernels.selection/1"
SELECTABLE = KINDS[:4]
ENTRIES = {str: {"kind": str, "shape": [int], "block": (None, [int])}}  # as JSON
_INT32_LIMIT = 2**31


class Entries:
    """Which entries of one dense 2-D weight are trained. It cannot be changed.

    Args:
        kind: ``"rows"``, ``"columns"``, ``"blocks"`` or ``"elements"``; dims are the stored
            tensor's own dims 0 and 1 (transformers' ``Conv1D`` stores ``(in, out)``).
        index: ``(count,)``, sorted, unique; int32, or int64 where the kind has 2**31 units or
            more. Rows and columns: their numbers. Blocks: row-major numbers in the grid of
            blocks. Elements: row-major numbers in the weight. It is copied.
        shape: shape of the dense weight.
        block: shape ``(bm, bn)`` of one block, which must divide `shape`; blocks only.

    Raises:
        ValueError: if any of it does not hold. `Entries.of` sorts and casts for you.
    """

    __slots__ = ("__weakref__", "_held", "block", "kind", "layout", "shape")

    kind: str
    shape: tuple[int, int]
    block: tuple[int, int] | None
    layout: Layout  # kind and shapes as the ops take them
    _held: Tensor  # what kernels read: shown to nobody who may write there

    def __init__(self, kind: str, index: Tensor, shape: tuple[int, int], block: tuple[int, int] | None = None):
        layout = _checked_layout(kind, shape, block)
        _check_form(index, layout.units)
        held = index.detach().clone()
        check_index_values("Entries", held, layout.units)
        self._fill(kind, layout, held)

    def _fill(self, kind: str, layout: Layout, held: Tensor) -> None:
        if held.is_inference():
            with torch.inference_mode(False):  # such a tensor does not say that it has changed, nor serve a backward
                held = held.clone()
        block = (layout.block_rows, layout.block_columns) if kind == "blocks" else None
        fields = {"kind": kind, "shape": (layout.rows, layout.columns), "block": block, "layout": layout, "_held": held}
        for name, value in fields.items():
            object.__setattr__(self, name, value)
        own(held, layout)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"Entries: {name} cannot be changed; make new ones by Entries.of")

    __delattr__ = __setattr__  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        return Entries, (self.kind, self.index, self.shape, self.block)  # to another process torch sends the memory itself

    @classmethod
    def of(
        cls, kind: str, index: Tensor | Iterable[int], shape: tuple[int, int], block: tuple[int, int] | None = None
    ) -> Entries:
        """Entries from numbers in any order, with repeats, of any integer type."""
        layout = _checked_layout(kind, shape, block)
        try:
            index = torch.as_tensor(index if isinstance(index, Tensor) else list(index))
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise ValueError(f"Entries.of: index must be integers, got {type(index).__name__}: {error}") from error
        if index.numel() and (index.is_floating_point() or index.is_complex() or index.dtype == torch.bool):
            raise ValueError(f"Entries.of: index must be integers, got {index.dtype}")
        return cls(kind, _sorted_unique(index.flatten().long(), layout.units).to(_index_dtype(layout.units)), shape, block)

    @classmethod
    def everything(cls, kind: str, shape: tuple[int, int], block: tuple[int, int] | None = None) -> Entries:
        """Every entry of a weight of this shape."""
        return cls.of(kind, torch.arange(_checked_layout(kind, shape, block).units), shape, block)

    @classmethod
    def without_data(cls, kind: str, count: int, shape: tuple[int, int], block: tuple[int, int] | None = None) -> Entries:
        """So many rows, columns, blocks or elements on the meta device: what they take can be told, not which they are."""
        layout = _checked_layout(kind, shape, block)
        if not 0 <= count <= layout.units:
            raise ValueError(f"Entries.without_data: count must be from 0 to {layout.units}, got {count}")
        made = object.__new__(cls)
        made._fill(kind, layout, torch.empty(count, dtype=_index_dtype(layout.units), device="meta"))
        return made

    @property
    def index(self) -> Tensor:
        """A copy of the index: what kernels read is out of everybody's reach."""
        return self._held.clone()

    @property
    def units(self) -> int:
        """How many rows, columns, blocks or elements the whole weight has."""
        return self.layout.units

    @property
    def compact_shape(self) -> tuple[int, ...]:
        """Shape of a compact tensor of these entries."""
        return self.layout.compact_shape(self._held.numel())

    @property
    def count(self) -> int:
        """How many entries are selected."""
        return math.prod(self.compact_shape)

    @property
    def density(self) -> float:
        """Selected entries over all entries of the weight."""
        return self.count / max(1, math.prod(self.shape))

    def flat_index(self) -> Tensor:
        """Row-major int64 numbers of the selected entries in the weight, in compact order: `compact_shape`."""
        flat = self.layout.flat_index(self._held)
        return flat.clone() if flat is self._held else flat

    def to(self, device: torch.device | str) -> Entries:
        """The same entries with their index on `device`; itself if it is there already."""
        held = self._held.to(device=device)
        return self if held is self._held else _unchecked(self, held)

    def as_elements(self) -> Entries:
        """The same entries as kind ``"elements"``."""
        return self if self.kind == "elements" else Entries.of("elements", self.flat_index(), self.shape)

    def _alike(self, other: Entries) -> tuple[Entries, Entries]:
        if self.shape != other.shape:
            raise ValueError(f"Entries: both must belong to one weight, got shapes {self.shape} and {other.shape}")
        same = (self.kind, self.block) == (other.kind, other.block)
        return (self, other) if same else (self.as_elements(), other.as_elements())

    def __or__(self, other: Entries) -> Entries:
        """Union; entries of different kinds become elements."""
        a, b = self._alike(other)
        return Entries.of(a.kind, torch.cat([a._held, b._held]), a.shape, a.block)

    def __and__(self, other: Entries) -> Entries:
        """Intersection; entries of different kinds become elements."""
        a, b = self._alike(other)
        return _unchecked(a, a._held[torch.isin(a._held, b._held)])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Entries) or self.layout != other.layout:
            return False
        if self._held.is_meta or other._held.is_meta:  # nobody knows which these are
            return self._held is other._held
        return torch.equal(self._held, other._held)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        block = f", block={self.block}" if self.block else ""
        return f"Entries({self._held.numel()} of {self.units} {self.kind}, shape={self.shape}{block})"


class Summary(NamedTuple):
    """One weight's line in `Selection.summary`."""

    name: str
    kind: str
    selected_units: int
    units: int
    selected_entries: int
    entries: int


class Selection(Mapping[str, Entries]):
    """An ordered map from weight name to `Entries`: everything that is trained sparsely.

    Args:
        entries: the map, or pairs of a name and its Entries.

    Raises:
        ValueError: if a value is no Entries.
    """

    def __init__(self, entries: Mapping[str, Entries] | Iterable[tuple[str, Entries]] = ()):
        self._entries = dict(entries)
        for name, value in self._entries.items():
            if not isinstance(value, Entries):
                raise ValueError(f"Selection: the value for {name!r} must be Entries, got {type(value).__name__}")

    def __getitem__(self, name: str) -> Entries:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __or__(self, other: Selection) -> Selection:
        """Union, weight by weight."""
        merged = dict(self)
        for name, entries in other.items():
            merged[name] = merged[name] | entries if name in merged else entries
        return Selection(merged)

    def __and__(self, other: Selection) -> Selection:
        """Intersection; weights with nothing in common are left out."""
        both = ((name, entries & other[name]) for name, entries in self.items() if name in other)
        return Selection((name, entries) for name, entries in both if entries.count)

    @property
    def count(self) -> int:
        """How many entries are selected in all weights together."""
        return sum(entries.count for entries in self.values())

    def summary(self) -> list[Summary]:
        """One line a weight: what is selected and out of how much."""
        return [Summary(name, e.kind, e._held.numel(), e.units, e.count, math.prod(e.shape)) for name, e in self.items()]

    def __str__(self) -> str:
        lines = [
            f"{s.name:<60} {s.selected_units:>9,} of {s.units:>11,} {s.kind:<8} {s.selected_entries / max(1, s.entries):>7.2%}"
            for s in self.summary()
        ]
        return "\n".join([*lines, f"{self.count:,} entries of {len(self)} weights"])

    def check(self, weights: Mapping[str, Tensor]) -> None:
        """Raises ValueError unless every name is one of `weights` and has the shape recorded here."""
        for name, entries in self.items():
            if name not in weights:
                raise ValueError(f"Selection: {brief(name, 200)} is not a weight of this model; it was made for another one")
            if tuple(weights[name].shape) != entries.shape:
                raise ValueError(
                    f"Selection: {brief(name, 200)} must have shape {entries.shape}, got {tuple(weights[name].shape)}; it was made for another model"
                )

    def save(self, path: str | os.PathLike) -> None:
        """Writes a safetensors file: an index tensor a weight, kinds, shapes and a checksum in the metadata."""
        tensors, metadata = self.to_tensors()
        write_tensors(path, tensors, metadata)

    def to_tensors(self, prefix: str = "") -> tuple[dict[str, Tensor], dict[str, str]]:
        """Index tensors by weight name, and the metadata that `from_tensors` needs beside them."""
        described = {name: {"kind": e.kind, "shape": e.shape, "block": e.block} for name, e in self.items()}
        tensors = {prefix + name: e._held.cpu().clone() for name, e in self.items()}
        return tensors, {"format": FORMAT, "entries": json.dumps(described)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], prefix: str = "") -> Selection:
        """The inverse of `to_tensors`; checks every index against its weight's shape."""
        described = parse_json(metadata.get("entries", "null"), "Selection", "entries")
        require(fits(described, ENTRIES), "Selection", "entries", "a kind, a shape and a block by name", brief(described))
        missing = next((name for name in described if prefix + name not in tensors), None)
        require(
            missing is None, "Selection", "entries", "those of the tensors", f"incomplete or altered, without {brief(missing)}"
        )
        return cls((name, Entries(d["kind"], tensors[prefix + name], d["shape"], d["block"])) for name, d in described.items())

    @classmethod
    def load(cls, path: str | os.PathLike) -> Selection:
        """Reads what `save` wrote.

        Raises:
            ValueError: if the file is truncated, altered, or something else.
        """
        tensors, metadata = read_tensors(path, "Selection.load", FORMAT)
        with inside("Selection.load", path):
            return cls.from_tensors(tensors, metadata)


def _checked_layout(kind: str, shape: tuple[int, int], block: tuple[int, int] | None) -> Layout:
    if kind not in SELECTABLE:
        raise ValueError(f"Entries: kind must be one of {', '.join(SELECTABLE)}, got {brief(kind)}")
    shape = _pair("shape", shape, "two sizes (only 2-D weights can be selected from)")
    if max(*shape, math.prod(shape)) >= 2**62:  # their bytes are to be counted, too
        raise ValueError(f"Entries: shape must be of fewer than 2**62 entries, got {brief(shape)}")
    if (kind == "blocks") != (block is not None):
        raise ValueError(f"Entries: block must be given for blocks and only for them, got {brief(block)} for {kind}")
    if block is not None:
        block = _pair("block", block, "two sizes")
        if any(b < 1 or s % b for s, b in zip(shape, block, strict=True)):
            raise ValueError(f"Entries: block must divide the weight's shape {shape}, got {block}")
    return Layout.of(kind, shape, block)


def _pair(name: str, value: Any, expected: str) -> tuple[int, int]:
    try:
        pair = tuple(map(operator.index, value))
    except TypeError:
        pair = ()
    if len(pair) != 2 or min(pair) < 0:
        raise ValueError(f"Entries: {name} must be {expected}, got {brief(value)}")
    return pair


def _index_dtype(units: int) -> torch.dtype:
    return torch.int32 if units < _INT32_LIMIT else torch.int64


def _sorted_unique(index: Tensor, units: int) -> Tensor:
    """`torch.unique`, without a sort where marking the units takes at most twice the memory of the index.

    A sort's threads wait for each other: Llama-2-7B's 8 x 8 blocks take 15 s of two shared cores so, marked 8 s.
    """
    if not index.numel() or units > 16 * index.numel() or index.min() < 0 or index.max() >= units:
        return torch.unique(index)
    marked = torch.zeros(units, dtype=torch.bool, device=index.device)
    marked[index] = True
    return marked.nonzero().flatten()


def _check_form(index: Tensor, units: int) -> None:
    if not isinstance(index, Tensor) or index.dim() != 1 or index.dtype != _index_dtype(units):
        got = f"{index.dtype} of shape {tuple(index.shape)}" if isinstance(index, Tensor) else type(index).__name__
        raise ValueError(f"Entries: index must be a 1-D {_index_dtype(units)} tensor, got {got}")
    if not index.is_contiguous():
        raise ValueError("Entries: index must be contiguous")


def _unchecked(like: Entries, held: Tensor) -> Entries:
    """A copy with another index that is known to hold already, and that nobody else has."""
    copy = object.__new__(Entries)
    copy._fill(like.kind, like.layout, held)
    return copy
