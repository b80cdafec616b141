"""The optimizer of the methods that leave most of a model frozen."""

from __future__ import annotations

from torch import nn

from ...optim import SparseAdamW


def sparse_adamw(model: nn.Module, learning_rate: float, weight_decay: float) -> SparseAdamW:
    """AdamW over all that requires a gradient; biases and normalisation do not decay, as usual."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return SparseAdamW([group for group in groups if group["params"]], lr=learning_rate)
