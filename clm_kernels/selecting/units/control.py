"""Selections that know nothing of the data: controls to hold a choice against, and enough to measure time and memory."""

from __future__ import annotations

import torch
from torch import nn

from ...defaults import BLOCK, DENSITY
from ...selection import Entries, Selection
from ..scores.sensitivity import eligible_weights
from .dealing import dealt_groups


def random_selection(
    model: nn.Module,
    *,
    density: float = DENSITY,
    kind: str = "columns",
    layers: str = "all",
    block: tuple[int, int] = (BLOCK, BLOCK),
    seed: int = 0,
    dry: bool = False,
) -> Selection:
    """The same share of each eligible weight's units, at least one, drawn with `seed`.

    Args:
        model: a transformers classifier.
        density: share of the units, in (0, 1].
        kind: ``"rows"``, ``"columns"``, ``"blocks"``, ``"elements"``, or ``"groups"``, see `dealt_groups`.
        layers: ``"all"``, ``"upper half"`` or ``"upper third"``.
        block: height and width, for blocks.
        dry: as many entries, but on the meta device and not drawn: for a model without data, to see what training it takes.

    Raises:
        ValueError: for arguments out of range, or weights that the blocks do not divide.
    """
    if not 0.0 < density <= 1.0:
        raise ValueError(f"random_selection: density must lie in (0, 1], got {density}")
    if kind == "groups":
        return dealt_groups(model, density=density, layers=layers, seed=seed, dry=dry)
    generator = torch.Generator().manual_seed(seed)
    selection = {}
    for name, module in eligible_weights(model, layers).items():
        selection[name] = drawn(tuple(module.weight.shape), kind, density, block, generator, dry)
    return Selection(selection)


def drawn(
    shape: tuple[int, int], kind: str, density: float, block: tuple[int, int], generator: torch.Generator, dry: bool = False
) -> Entries:
    """So much of one weight's units as `random_selection` draws, groups aside; if `dry`, as many on the meta device."""
    size = block if kind == "blocks" else None
    units = Entries.of(kind, [], shape, size).units
    count = max(1, round(density * units))
    if dry:
        return Entries.without_data(kind, count, shape, size)
    return Entries.of(kind, torch.randperm(units, generator=generator)[:count], shape, size)
