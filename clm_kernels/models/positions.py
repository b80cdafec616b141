"""Which ids and how many tokens a model takes."""

from __future__ import annotations

from typing import Any

from torch import nn


def most_positions(config: Any) -> int | None:
    """How many tokens the config says that the model takes; None if it does not."""
    return getattr(config, "max_position_embeddings", None)


def position_limits(model: nn.Module) -> list[int]:
    """Numbers of tokens, none of which a text may exceed: the config's, and those of tables of learnt positions."""
    limits = [positions] if (positions := most_positions(model.config)) else []
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            padding = module.padding_idx  # RoBERTa counts its positions from here
            limits.append(module.num_embeddings - (0 if padding is None else padding + 1))
    return limits


def lend_pad_token(config: Any) -> None:
    """Names a padding token where there is none: decoders' heads ask for one, even of batches without padding."""
    if config.pad_token_id is None:
        config.pad_token_id = 0


def real_token(config: Any) -> int:
    """An id that is not the padding token's."""
    return int(getattr(config, "pad_token_id", None) == 0)
