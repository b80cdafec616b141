"""What a budget buys: rows, columns or blocks alone, or those of several weights that are of use only together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...defaults import BLOCK, UNITS
from ...models.linear import is_conv1d
from ...models.structure import depths, input_embedding
from ...ops.layout import Layout
from ...selection import Entries, Selection
from ..scores.sensitivity import eligible_weights
from .coupling import Coupled, heads, neurons


class Part(NamedTuple):
    """What one weight gives to the units ``first, first + 1, …``.

    Attributes:
        layout: kind and shapes; the kind is ``rows``, ``columns`` or ``blocks``.
        index: ``(units, members)``: numbers of the rows, columns or blocks of each unit.
        first: number of the first unit.
    """

    layout: Layout
    index: Tensor
    first: int

    @property
    def kind(self) -> str:
        return self.described[0]

    @property
    def described(self) -> tuple:
        """Kind, shape and block, as `Entries` takes them."""
        layout = self.layout
        block = (layout.block_rows, layout.block_columns) if layout.block_rows else None
        return ("rows", "columns", "blocks")[layout.kind], (layout.rows, layout.columns), block

    @property
    def entries(self) -> int:
        """Entries of one unit."""
        return self.index.shape[1] * math.prod(self.layout.compact_shape(1))

    @property
    def span(self) -> slice:
        """The units."""
        return slice(self.first, self.first + self.index.shape[0])


class Units(Mapping[str, Part]):
    """Units that share no entry, numbered from 0: an ordered map from weight name to what that weight gives to them.

    Attributes:
        count: how many units.
        kinds: weight name -> the kind of scores that `scores` needs of it.
    """

    def __init__(self, parts: Mapping[str, Part] | Iterable[tuple[str, Part]]):
        self._parts = dict(parts)
        self.count = max((part.span.stop for part in self.values()), default=0)
        self.kinds = {name: part.kind for name, part in self.items()}

    def __getitem__(self, name: str) -> Part:
        return self._parts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def __add__(self, other: Units) -> Units:
        """Both, the other's numbered after this one's.

        Raises:
            ValueError: if they share a weight.
        """
        if shared := [name for name in other if name in self]:
            raise ValueError(f"units: kinds that are added must not share a weight, got {shared[0]!r} in both")
        later = {name: part._replace(first=part.first + self.count) for name, part in other.items()}
        return Units(self._parts | later)

    def sum(self, of: Mapping[str, float | Tensor]) -> Tensor:
        """``(count,)`` float64: for each unit the sum over its weights of a number each, or of its ``(units,)``."""
        total = torch.zeros(self.count, dtype=torch.float64)
        for name, part in self.items():
            total[part.span] += of[name]
        return total

    def least(self, of: Mapping[str, float]) -> Tensor:
        """``(count,)`` float64: for each unit the least of its weights' numbers."""
        least = torch.full((self.count,), math.inf, dtype=torch.float64)
        for name, part in self.items():
            least[part.span] = least[part.span].clamp(max=of[name])
        return least

    @property
    def entries(self) -> Tensor:
        """``(count,)`` float64: how many entries each unit has."""
        return self.sum({name: part.entries for name, part in self.items()})

    def scores(self, scores: Mapping[str, Tensor]) -> Tensor:
        """``(count,)`` float64: each unit's score, the sum of its rows', columns' and blocks' scores.

        Args:
            scores: weight name -> 1-D scores, of `kinds`.

        Raises:
            ValueError: if a weight's are missing, of another shape, or not finite.
        """
        for name, part in self.items():
            if name not in scores:
                raise ValueError(f"budget: scores must hold those of every weight of the units, got none of {name!r}")
            check_scores(name, scores[name], part.kind, part.layout.units)
        return self.sum({name: scores[name].cpu().double()[part.index].sum(1) for name, part in self.items()})

    def select(self, chosen: Tensor) -> Selection:
        """The Selection of the units where `chosen`, ``(count,)`` bool, is true."""
        taken = {name: part.index[chosen[part.span]].flatten() for name, part in self.items()}
        return Selection((name, _entries(self[name], index)) for name, index in taken.items() if index.numel())

    def __repr__(self) -> str:
        return f"Units({self.count} units of {len(self)} weights)"


def find_units(model: nn.Module, kind: str, *, layers: str = "all", block: tuple[int, int] = (BLOCK, BLOCK)) -> Units:
    """The units of a transformers model.

    Args:
        kind: ``"rows"``, ``"columns"`` or ``"blocks"`` of each eligible weight; ``"heads"`` of the attention, where query
            heads that share a key and a value are one unit; feed-forward ``"neurons"``; whole ``"layers"``;
            ``"embeddings"``, rows of the input embeddings; or several that share no weight, as ``"heads+neurons"``.
        layers: whose weights are eligible: ``"all"``, ``"upper half"`` or ``"upper third"``; not for embeddings.
        block: height and width, for blocks.

    Raises:
        ValueError: for arguments out of range, weights that the blocks do not divide, or a model in which such units
            are not found, naming what is missing.
    """
    wanted = kind.split("+")
    if unknown := [one for one in wanted if one not in UNITS]:
        raise ValueError(f"units: kind must be one of {', '.join(UNITS)}, or several joined by +, got {unknown[0]!r}")
    found = Units({})
    for one in wanted:
        found = found + _find(model, one, layers, block)
    return found


def _find(model: nn.Module, kind: str, layers: str, block: tuple[int, int]) -> Units:
    if kind == "embeddings":
        name, module = input_embedding(model)
        return single({name: tuple(module.weight.shape)}, "rows")
    modules = eligible_weights(model, layers)
    if kind in ("rows", "columns", "blocks"):
        return single({name: tuple(module.weight.shape) for name, module in modules.items()}, kind, block)
    if kind == "layers":
        depth = depths(model)
        numbers = sorted({depth[name] for name in modules})
        shapes = {name: tuple(module.weight.shape) for name, module in modules.items()}
        return Units(
            (name, Part(Layout.of("rows", shape), torch.arange(shape[0])[None], numbers.index(depth[name])))
            for name, shape in shapes.items()
        )
    return _coupled(heads(model, layers) if kind == "heads" else neurons(model, layers), modules)


def single(shapes: Mapping[str, tuple[int, int]], kind: str, block: tuple[int, int] | None = None) -> Units:
    """Every row, column or block of these weights as a unit of its own."""
    parts, first = {}, 0
    for name, shape in shapes.items():
        layout = Entries.of(kind, [], shape, block if kind == "blocks" else None).layout
        parts[name] = Part(layout, torch.arange(layout.units)[:, None], first)
        first += layout.units
    return Units(parts)


def _coupled(found: list[Coupled], modules: Mapping[str, nn.Module]) -> Units:
    parts, first = {}, 0
    for coupled in found:
        index = next(iter(coupled.outputs.values()))
        for features, kind in ((coupled.outputs, "rows"), (coupled.inputs, "columns")):
            for name, members in features.items():
                stored = ("columns" if kind == "rows" else "rows") if is_conv1d(modules[name]) else kind
                parts[name] = Part(Layout.of(stored, tuple(modules[name].weight.shape)), members, first)
        first += index.shape[0]
    return Units(parts)


def check_scores(name: str, score: Tensor, kind: str, units: int) -> None:
    if score.shape != (units,):
        raise ValueError(f"budget: the scores of {name!r} must be of shape ({units},) for {kind}, got {tuple(score.shape)}")
    if not bool(score.isfinite().all()):
        raise ValueError(
            f"budget: the scores of {name!r} must be finite, got {int((~score.isfinite()).sum())} that are inf or NaN"
        )


def _entries(part: Part, index: Tensor) -> Entries:
    kind, shape, block = part.described
    return Entries.of(kind, index, shape, block)
