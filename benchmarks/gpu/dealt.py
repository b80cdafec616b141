"""Dealt groups as 16 x 16 blocks, as `weight_grad` and `adamw_step_` see them.

Row strips and column strips are dealt at random into groups; the blocks are selected whose strips are of the same one.
"""

from __future__ import annotations

import torch
from torch import nn

import clm_kernels as clm
from clm_kernels.choose.sensitivity import eligible_weights

GROUPS, STRIP = 8, 16


def dealt(shape: tuple[int, int], groups: int = GROUPS, strip: int = STRIP, seed: int = 0) -> clm.Entries:
    """Of a weight whose sides are multiples of the strip: 1 / groups of its entries."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = (torch.randperm(side // strip, generator=generator) % groups for side in shape)
    return clm.Entries.of("blocks", (rows[:, None] == columns).flatten().nonzero().flatten(), shape, (strip, strip))


def dealt_selection(model: nn.Module) -> clm.Selection:
    """Of every eligible weight of a model."""
    shapes = {name: tuple(module.weight.shape) for name, module in eligible_weights(model, "all").items()}
    return clm.Selection((name, dealt(shape, seed=i)) for i, (name, shape) in enumerate(shapes.items()))
