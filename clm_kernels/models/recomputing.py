"""Gradient checkpointing: what is computed again in the backward pass, instead of keeping it: whole layers, or norms."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from ..errors import require
from .compat import enable_checkpointing

FUSED = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)  # they keep their input, and compute the rest again by themselves


def checkpoint_layers(model: PreTrainedModel) -> None:
    """Turns it on, for training mode, without reaching below what is trained.

    transformers lets the embeddings' output require a gradient besides, which only reentrant checkpoints need: it would
    run the backward pass through a frozen prefix of layers, and compute each of them again.

    Args:
        model: changed in place; a transformers model, after PEFT has wrapped it, if it does.

    Raises:
        ValueError: if its class cannot do that.
    """
    check_checkpointing("checkpoint_layers", model)
    enable_checkpointing(model)
    model.disable_input_require_grads()


def recompute_norms(model: nn.Module) -> int:
    """Lets the normalisation layers that are made of several operations keep their input alone; gradients stay bit for bit.

    transformers' RMSNorm (Llama, Qwen, Mistral, Gemma) keeps its input in float32 and its output besides: by
    `estimate`, a fifth of what Llama-2-7B's shape keeps in a step that trains 1 % of its columns.

    Args:
        model: changed in place, on its instances' `forward`.

    Returns:
        How many layers compute again; 0 in a model whose normalisation torch fuses, as BERT's.
    """
    norms = [m for m in model.modules() if "norm" in type(m).__name__.lower() and not isinstance(m, FUSED)]
    for norm in norms:
        norm.forward = partial(_again, norm.forward)
    return len(norms)


def _again(forward: Callable[..., Tensor], hidden: Tensor, *args) -> Tensor:
    if not (torch.is_grad_enabled() and hidden.requires_grad):
        return forward(hidden, *args)
    return checkpoint(forward, hidden, *args, use_reentrant=False, preserve_rng_state=False)


def check_checkpointing(function: str, model: PreTrainedModel) -> None:
    """Raises ValueError in the name of `function` if the model's class cannot do that."""
    able = "of a class that supports gradient checkpointing"
    require(model.supports_gradient_checkpointing, function, "model", able, type(model).__name__)
