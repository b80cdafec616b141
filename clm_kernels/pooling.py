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
        ValueError: for another pooling, or a model whose head reads neither place; it is left as it was.
    """
    if pooling not in POOLINGS:
        raise ValueError(f"set_pooling: pooling must be one of {', '.join(POOLINGS)}, got {pooling!r}")
    if pooling == "mean" and not _reads_first_position(model):
        raise ValueError(f"set_pooling: mean needs an encoder with a sequence classification head, got {type(model).__name__}")
    if hasattr(model.config, "classifier_pooling"):
        native = model.__dict__.setdefault("_clm_native_pooling", model.config.classifier_pooling)
        model.config.classifier_pooling = native if pooling == "native" else pooling
        return model
    if hasattr(model, "_clm_pooling_hook"):
        model._clm_pooling_hook.remove()
        del model._clm_pooling_hook
    setattr(model.config, CONFIG_KEY, pooling)
    if pooling == "mean":
        model._clm_pooling_hook = base_model(model).register_forward_hook(mean_hook, with_kwargs=True)
    return model


def _reads_first_position(model: nn.Module) -> bool:
    """Whether this is an encoder whose classifier reads ``pooler_output`` or the first position."""
    base, config = base_model(model), model.config
    if base is model or not type(model).__name__.endswith("ForSequenceClassification"):
        return False
    if getattr(config, "is_decoder", False) or getattr(config, "is_encoder_decoder", False):
        return False
    return hasattr(config, "classifier_pooling") or hasattr(base, "encoder") or hasattr(base, "transformer")


def mean_pool(hidden: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Mean of ``(B, T, H)`` over the positions that `attention_mask` holds to be real: ``(B, H)``.

    The mask is ``(B, P + T)`` where P keys and values of prefix tuning stand before the text; they are no part of the mean.
    """
    if attention_mask is None:
        return hidden.mean(1)
    real = attention_mask[:, -hidden.shape[1] :, None] != 0
    wide = hidden.float() if hidden.dtype.itemsize < 4 else hidden  # bf16 cannot count beyond 256
    return (wide.masked_fill(~real, 0).sum(1) / real.sum(1).clamp_min(1)).to(hidden.dtype)


def mean_hook(module: nn.Module, args: tuple, kwargs: dict, output):
    """Forward hook: puts the mean where a classification head looks, into ``pooler_output`` and the first position."""
    pooled = mean_pool(output.last_hidden_state, kwargs.get("attention_mask", args[1] if len(args) > 1 else None))
    output = copy.copy(output)
    output.last_hidden_state = output.last_hidden_state.index_copy(1, pooled.new_zeros(1).long(), pooled[:, None])
    if getattr(output, "pooler_output", None) is not None:
        output.pooler_output = pooled
    return output
