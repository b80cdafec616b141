"""What differs between the versions that pyproject.toml allows: asked for here alone, by what the library can do.

`constraints/` names the versions that are tested.
"""

from __future__ import annotations

from torch import nn

from .pooled_head import is_cache  # which stands there because checkpoints carry that file along

__all__ = ["enable_checkpointing", "is_cache"]


def enable_checkpointing(model: nn.Module) -> None:
    """Turns transformers' gradient checkpointing on, not reentrant."""
    options = {"use_reentrant": False}
    if hasattr(
        model, "activation_checkpointing_enable"
    ):  # its name since transformers 5.23; a model that PEFT wraps has the old one
        model.activation_checkpointing_enable(options)
    else:
        model.gradient_checkpointing_enable(options)
