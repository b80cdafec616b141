"""What a model is by its config's type: an encoder, which fills masks, or a decoder, which continues texts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..strangers import read_json

PREFIX = "clm_pooled_"  # of the types under which `save_portable` writes checkpoints


def is_encoder(config: Any) -> bool:
    """Whether every layer of a model with this config attends to both sides by what its type is."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    decoder = getattr(config, "is_decoder", False) or getattr(config, "is_encoder_decoder", False)
    return getattr(config, "model_type", None) in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not decoder


def is_decoder(checkpoint: str | os.PathLike) -> bool:
    """Whether a checkpoint's model continues texts, and neither fills masks nor translates."""
    from transformers.models.auto import modeling_auto as auto

    described = read_json(Path(checkpoint) / "config.json", "is_decoder", "a config")
    kind = str(described.get("model_type", "")).removeprefix(PREFIX)
    others = auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES, auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
    return kind in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not any(kind in names for names in others)
