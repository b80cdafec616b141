"""Dealt groups of weights of many shapes, for tests of what deals them and of what recognises them."""

import torch

from clm_kernels.selecting.units.dealing import dealt

SHAPES = ((64, 96), (48, 80), (30, 14), (7, 13), (16, 16), (1, 5), (129, 64))  # of weights
GROUPS = (1, 2, 3, 8, 100)


def deal_out(shape, groups, seed=0):
    return dealt(shape, groups, torch.Generator().manual_seed(seed))


def grid_of(entries):
    """Which blocks are selected, ``(grid rows, grid columns)``."""
    (rows, columns), (bm, bn) = entries.shape, entries.block
    selected = torch.zeros(rows // bm * (columns // bn), dtype=torch.bool)
    selected[entries.index.long()] = True
    return selected.view(rows // bm, columns // bn)
