"""Gradients of single examples, and positions to look at."""

import torch
from torch import nn

from clm_kernels.selecting.scores.sensitivity import eligible_weights, score_pass


def gradients(model, given, positions=None):
    """name -> dense gradients of each example, ``(examples, *weight.shape)``, of the stored tensor."""
    found = {}

    def add(name, module, x, dy, weights):
        dy = dy if weights is None else dy * weights[..., None].to(dy.dtype)
        gradient = torch.einsum("bto,bti->boi", dy, x)
        found.setdefault(name, []).append(gradient if isinstance(module, nn.Linear) else gradient.mT)

    score_pass(model, given, eligible_weights(model), add, positions)
    return {name: torch.cat(parts) for name, parts in found.items()}


def some_positions(batch):
    generator = torch.Generator().manual_seed(3)
    return torch.rand(batch["input_ids"].shape, generator=generator) * batch["attention_mask"]
