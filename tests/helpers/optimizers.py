"""Small models that optimizers are tested on, and torch's arithmetic to hold them against."""

import torch
from models import entries
from torch import nn

import clm_kernels as clm

LOW = (torch.bfloat16, torch.float16)


def layers(dtype=torch.float64):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(12, 8), nn.Tanh(), nn.LayerNorm(8), nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 4)).to(dtype)


def patched(kind="rows", dtype=torch.float64, density=None):
    """The layers with their first two matrices selected; the rest is trained whole."""
    model = layers(dtype)
    shapes = {"0.weight": (8, 12), "3.weight": (12, 8)}
    chosen = {name: entries(shape, kind, density or 1.0) for name, shape in shapes.items()}
    handle = clm.patch(model, clm.Selection(chosen), biases=True, norms=True, head=["5.weight", "5.bias"])
    return model, handle


def descend(model, optimizer, steps=200, scheduler=None):
    """Steps on noisy gradients, some of them zero, and one parameter's missing at times."""
    random = torch.Generator().manual_seed(0)
    dtype = next(model.parameters()).dtype
    for step in range(steps):
        x = torch.randn(5, 12, generator=random, dtype=torch.float64).to(dtype)
        x[:, 3] = 0
        model(x).square().sum().backward()
        if step % 7 == 3:
            list(model.children())[-1].bias.grad = None
        optimizer.step()
        optimizer.zero_grad(set_to_none=bool(step % 2))
        if scheduler:
            scheduler.step()


ARGUMENTS = {
    "default": {},
    "no decay": {"weight_decay": 0.0},
    "strong decay": {"weight_decay": 0.9, "lr": 1e-2},
    "amsgrad": {"amsgrad": True},
    "maximize": {"maximize": True, "lr": 1e-4},
    "betas": {"betas": (0.5, 0.7)},
    "no momentum": {"betas": (0.0, 0.99)},
    "large eps": {"eps": 1e-2},
    "tensor lr": {"lr": torch.tensor(2e-3, dtype=torch.float64)},
    "lr 0": {"lr": 0.0},
}
