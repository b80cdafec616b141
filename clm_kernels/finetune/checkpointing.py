"""Gradient checkpointing: layers that are computed again in the backward pass, instead of keeping what they computed."""

from __future__ import annotations

from transformers import PreTrainedModel

from .errors import require


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
    options = {"use_reentrant": False}
    if hasattr(model, "activation_checkpointing_enable"):  # its name from transformers 5.2x on
        model.activation_checkpointing_enable(options)
    else:
        model.gradient_checkpointing_enable(options)
    model.disable_input_require_grads()


def check_checkpointing(function: str, model: PreTrainedModel) -> None:
    """Raises ValueError in the name of `function` if the model's class cannot do that."""
    able = "of a class that supports gradient checkpointing"
    require(model.supports_gradient_checkpointing, function, "model", able, type(model).__name__)
