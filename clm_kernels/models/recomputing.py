"""Gradient checkpointing: what is computed again in the backward pass, instead of keeping it: whole layers, or norms."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from ..errors import require
from ..handles import Restorable, Undo
from .compat import enable_checkpointing

CHECKPOINTING = (  # what transformers sets on a module
    "gradient_checkpointing", "_gradient_checkpointing_func", "_require_grads_hooks", "_require_grads_hook",
)  # fmt: skip
FUSED = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)  # they keep their input, and compute the rest again by themselves


def checkpoint_layers(model: PreTrainedModel) -> Undo:
    """Turns it on, for training mode, without reaching below what is trained.

    transformers lets the embeddings' output require a gradient besides, which only reentrant checkpoints need: it would
    run the backward pass through a frozen prefix of layers, and compute each of them again.

    Args:
        model: changed in place; a transformers model, after PEFT has wrapped it, if it does.

    Returns:
        A handle, whose `restore` turns it off, or to what it was.

    Raises:
        ValueError: if its class cannot do that.
    """
    check_checkpointing("checkpoint_layers", model)
    former = [
        (module, {name: vars(module)[name] for name in CHECKPOINTING if name in vars(module)}) for module in model.modules()
    ]
    enable_checkpointing(model)
    model.disable_input_require_grads()
    return Undo(model, lambda _: _put_back(former))


def _put_back(former: list[tuple[nn.Module, dict[str, Any]]]) -> None:
    for module, attributes in former:
        for name in CHECKPOINTING:
            vars(module).pop(name, None)
        vars(module).update(attributes)


class RecomputedNorms(Restorable):
    """What `recompute_norms` did to a model.

    Attributes:
        model: whose layers compute again.
        norms: those layers; none in a model whose normalisation torch fuses, as BERT's.
    """

    def __init__(self, model: nn.Module):
        self.model = model
        self.norms = [m for m in model.modules() if "norm" in type(m).__name__.lower() and not isinstance(m, FUSED)]
        self._own = [vars(norm).get("forward") for norm in self.norms]
        for norm in self.norms:
            norm.forward = partial(_again, norm.forward)

    def _undo(self) -> None:
        for norm, forward in zip(self.norms, self._own, strict=True):
            vars(norm).pop("forward", None)
            if forward is not None:
                norm.forward = forward


def recompute_norms(model: nn.Module) -> RecomputedNorms:
    """Lets the normalisation layers that are made of several operations keep their input alone; gradients stay bit for bit.

    transformers' RMSNorm (Llama, Qwen, Mistral, Gemma) keeps its input in float32 and its output besides: by
    `estimate`, a fifth of what Llama-2-7B's shape keeps in a step that trains 1 % of its columns.

    Args:
        model: changed in place, on its instances' `forward`.

    Returns:
        A handle, which knows how many layers compute again.
    """
    return RecomputedNorms(model)


def _again(forward: Callable[..., Tensor], hidden: Tensor, *args) -> Tensor:
    if not (torch.is_grad_enabled() and hidden.requires_grad):
        return forward(hidden, *args)
    return checkpoint(forward, hidden, *args, use_reentrant=False, preserve_rng_state=False)


def check_checkpointing(function: str, model: PreTrainedModel) -> None:
    """Raises ValueError in the name of `function` if the model's class cannot do that."""
    able = "of a class that supports gradient checkpointing"
    require(model.supports_gradient_checkpointing, function, "model", able, type(model).__name__)
