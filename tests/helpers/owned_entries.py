"""Entries of every kind, and a patched layer of each."""

import pytest
import torch
from models import entries
from oracles import KINDS
from torch import nn

import clm_kernels as clm
from clm_kernels import Selection

every_kind = pytest.mark.parametrize("kind", KINDS)


def patched(kind="columns", dtype=torch.float32, **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 12)).to(dtype)
    chosen = Selection({"0.weight": entries((8, 12), kind, 0.4), "2.weight": entries((12, 8), kind, 0.4)})
    handle = clm.patch(model, chosen, biases=True)
    return model, handle, clm.SparseAdamW(model.parameters(), lr=1e-2, **options)
