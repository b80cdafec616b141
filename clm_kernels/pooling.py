"""Which token vectors an encoder's classification head reads: its own choice, or the mean over the real tokens."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path

from torch import Tensor, nn

from .structure import base_model

POOLINGS = ("native", "mean")
CONFIG_KEY = "clm_pooling"


def pooling_of(checkpoint: str | os.PathLike) -> str:
    """How a checkpoint was trained to pool: as its config records it, or its sentence-transformers files say."""
    for file, key, mean in (("config.json", CONFIG_KEY, "mean"), ("1_Pooling/config.json", "pooling_mode_mean_tokens", True)):
        described = Path(checkpoint) / file
        if described.is_file() and json.loads(described.read_text(encoding="utf-8")).get(key) == mean:
            return "mean"
    return "native"


def set_pooling(model: nn.Module, pooling: str) -> nn.Module:
    """Makes a sequence classifier's head read `pooling`; recorded in the model's config, keys unchanged.

    Where transformers knows the choice itself (``classifier_pooling``), it is set there. Elsewhere a hook on the
    base model puts the mean of the last hidden states over the attention mask where the head looks: into
    ``pooler_output``, and into the first position.

    Raises:
        ValueError: for another pooling, or a model whose head reads neither place.
    """
    if pooling not in POOLINGS:
        raise ValueError(f"set_pooling: pooling must be one of {', '.join(POOLINGS)}, got {pooling!r}")
    if hasattr(model.config, "classifier_pooling"):
        if pooling == "mean":
            model.config.classifier_pooling = "mean"
        return model
    if getattr(model.config, CONFIG_KEY, "native") == "mean" and hasattr(model, "_clm_pooling_hook"):
        model._clm_pooling_hook.remove()
        del model._clm_pooling_hook
    setattr(model.config, CONFIG_KEY, pooling)
    if pooling == "mean":
        base = base_model(model)
        if base is model or getattr(model.config, "is_decoder", False) or not hasattr(base, "encoder") and not hasattr(base, "transformer"):
            raise ValueError(f"set_pooling: mean needs an encoder with a classification head, got {type(model).__name__}")
        model._clm_pooling_hook = base.register_forward_hook(mean_hook, with_kwargs=True)
    return model


def mean_pool(hidden: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Mean of ``(B, T, H)`` over the positions that `attention_mask` ``(B, T)`` holds to be real: ``(B, H)``."""
    if attention_mask is None:
        return hidden.mean(1)
    mask = attention_mask[..., None].to(hidden.dtype)
    return (hidden * mask).sum(1) / mask.sum(1).clamp_min(1)


def mean_hook(module: nn.Module, args: tuple, kwargs: dict, output):
    """Forward hook: puts the mean where a classification head looks, into ``pooler_output`` and the first position."""
    pooled = mean_pool(output.last_hidden_state, kwargs.get("attention_mask"))
    output = copy.copy(output)
    output.last_hidden_state = output.last_hidden_state.index_copy(1, pooled.new_zeros(1).long(), pooled[:, None])
    if getattr(output, "pooler_output", None) is not None:
        output.pooler_output = pooled
    return output
