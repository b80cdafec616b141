"""How selected entries lie in a dense weight: what every op is told beside the index."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

KINDS = ("rows", "columns", "blocks", "elements", "dense")
ROWS, COLUMNS, BLOCKS, ELEMENTS, DENSE = range(5)


class Layout(NamedTuple):
    """Kind, shape of the dense weight and shape of one block; five ints, so that an op's schema can hold it.

    `DENSE` stands for an ordinary parameter that is trained whole; only `adamw_step_` takes it.
    """

    kind: int
    rows: int
    columns: int
    block_rows: int
    block_columns: int

    @classmethod
    def of(cls, kind: str, shape: tuple[int, int], block: tuple[int, int] | None = None) -> Layout:
        return cls(KINDS.index(kind), *shape, *(block or (0, 0)))

    @classmethod
    def checked(cls, op: str, layout: Sequence[int], dense: bool = False) -> Layout:
        """A layout from five ints of unknown origin; `dense` allows `DENSE`.

        Raises:
            ValueError: if there is no such kind, or the block does not divide the weight.
        """
        if type(layout) is not cls:
            layout = cls(*layout) if len(layout) == len(cls._fields) else cls(-1, 0, 0, 0, 0)
        if not _is_possible(layout) or (layout.kind == DENSE and not dense):
            kinds = ", ".join(f"{number} for {kind}" for number, kind in enumerate(KINDS[: DENSE + dense]))
            raise ValueError(
                f"{op}: layout must be a kind ({kinds}), the weight's two sizes and a block that divides them, got {[*layout]}"
            )
        return layout

    @classmethod
    def every(cls, layouts: Sequence[int]) -> tuple[Layout, ...]:
        """The layouts of several weights, whose ints stand one after the other."""
        return _every(tuple(layouts))

    @property
    def units(self) -> int:
        """How many rows, columns, blocks or elements the whole weight has."""
        if self.kind == ROWS:
            return self.rows
        if self.kind == COLUMNS:
            return self.columns
        if self.kind == BLOCKS:
            return (self.rows // self.block_rows) * (self.columns // self.block_columns)
        return self.rows * self.columns

    def compact_shape(self, count: int) -> tuple[int, ...]:
        """Shape of a compact tensor of `count` selected units."""
        if self.kind == ROWS:
            return (count, self.columns)
        if self.kind == COLUMNS:
            return (self.rows, count)
        if self.kind == BLOCKS:
            return (count, self.block_rows, self.block_columns)
        return (count,)

    def new_compact(self, like: Tensor, index: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """An empty compact tensor on the device of `like`, and of its dtype unless another is given."""
        return like.new_empty(self.compact_shape(index.numel()), dtype=dtype)

    def flat_index(self, index: Tensor) -> Tensor:
        """Row-major int64 numbers of the selected entries in the dense weight, of `compact_shape`."""
        index = index.long()
        rows, columns = _range(self.rows, index), _range(self.columns, index)
        if self.kind == ROWS:
            return index[:, None] * self.columns + columns
        if self.kind == COLUMNS:
            return rows[:, None] * self.columns + index
        if self.kind == BLOCKS:
            grid_columns = self.columns // self.block_columns
            row = (index // grid_columns * self.block_rows)[:, None] + _range(self.block_rows, index)  # (B, bm)
            column = (index % grid_columns * self.block_columns)[:, None] + _range(self.block_columns, index)  # (B, bn)
            return row[:, :, None] * self.columns + column[:, None, :]
        return index


@functools.lru_cache(maxsize=64)  # asked for several times in a step
def _every(layouts: tuple[int, ...]) -> tuple[Layout, ...]:
    length = len(Layout._fields)
    return tuple(Layout(*layouts[i : i + length]) for i in range(0, len(layouts), length))


@functools.cache
def _is_possible(layout: Layout) -> bool:
    kind, *sizes = layout
    if kind not in range(len(KINDS)) or min(sizes) < 0:
        return False
    rows, columns, *block = sizes
    return kind != BLOCKS or (min(block) > 0 and rows % block[0] == 0 and columns % block[1] == 0)


def _range(end: int, like: Tensor) -> Tensor:
    return torch.arange(end, device=like.device)
