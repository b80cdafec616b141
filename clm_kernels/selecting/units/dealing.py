"""Dealt groups: blocks drawn by chance so that every row and every column of a weight takes part, and as much as any other."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...defaults import DENSITY_GROUPS
from ...selection import Entries, Selection
from ..scores.sensitivity import eligible_weights

STRIPS = (16, 8, 4, 2, 1)  # 16 values in bfloat16 fill a sector of 32 bytes, the least that a GPU reads


def dealt_groups(
    model: nn.Module, *, density: float = DENSITY_GROUPS, layers: str = "all", seed: int = 0, dry: bool = False
) -> Selection:
    """Of each eligible weight the blocks in which the groups of a row strip and of a column strip match.

    Row strips and column strips are dealt at random into ``round(1 / density)`` groups, each gets as many as any other up
    to one. So every row and every column has the same number of selected entries, up to one strip's, and the gradient is
    one dense product a group. A strip is 16 wide; on a side that 16 does not divide, or that has fewer such strips than
    there are groups, the widest of 8, 4, 2 and 1 that does; on a side smaller than that, the side is the number of groups.

    Args:
        model: a transformers classifier.
        density: of each weight's entries, in (0, 1].
        layers: ``"all"``, ``"upper half"`` or ``"upper third"``.
        seed: of the deal.
        dry: as many blocks, but on the meta device: for a model without data, to see what training it takes.

    Raises:
        ValueError: for arguments out of range.
    """
    if not 0.0 < density <= 1.0:
        raise ValueError(f"dealt_groups: density must lie in (0, 1], got {density}")
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: tuple(module.weight.shape) for name, module in eligible_weights(model, layers).items()}
    return Selection((name, dealt(shape, round(1 / density), generator, dry)) for name, shape in shapes.items())


def dealt(shape: tuple[int, int], groups: int, generator: torch.Generator, dry: bool = False) -> Entries:
    """The matching blocks of one weight, of the strips that `strip` allows; if `dry`, as many on the meta device."""
    groups = min(groups, *shape)
    block = tuple(strip(side, groups) for side in shape)
    rows, columns = (deal(side // width, groups, generator) for side, width in zip(shape, block, strict=True))
    if dry:
        count = int(rows.bincount(minlength=groups) @ columns.bincount(minlength=groups))
        return Entries.without_data("blocks", count, shape, block)
    return Entries.of("blocks", (rows[:, None] == columns).flatten().nonzero(), shape, block)


def strip(side: int, groups: int) -> int:
    """Width of the strips that a side is cut into."""
    return next(width for width in STRIPS if side % width == 0 and (side // width >= groups or width == 1))


def deal(strips: int, groups: int, generator: torch.Generator) -> Tensor:
    """``(strips,)``: each strip's group; whose groups get one more, where they cannot all get as many, is drawn too."""
    order = torch.randperm(groups, generator=generator).repeat(-(-strips // groups))[:strips]
    return order[torch.randperm(strips, generator=generator)]
