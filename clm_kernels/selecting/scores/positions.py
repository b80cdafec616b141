"""Which positions of a batch count in a score: functions from a batch to weights ``(B, T)``."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ...token_groups import TokenGroups

Positions = Callable[[Mapping[str, Tensor]], Tensor]


def at_groups(groups: TokenGroups) -> Positions:
    """1 where a piece belongs to a token group, else 0; a text that has none counts at all its positions."""

    def positions(batch: Mapping[str, Tensor]) -> Tensor:
        ids, real = batch["input_ids"], real_tokens(batch)
        inside = torch.tensor([groups.positions(row) for row in ids.tolist()], device=ids.device) & real
        return torch.where(inside.any(1, keepdim=True), inside, real).float()

    return positions


def at_labels(batch: Mapping[str, Tensor]) -> Tensor:
    """1 where a token has a label, for token classification."""
    if batch["labels"].shape != batch["input_ids"].shape:
        raise ValueError("at_labels: labels must be one for each token, got one for each text")
    return (batch["labels"] != -100).float()


def at_first(batch: Mapping[str, Tensor]) -> Tensor:
    """1 at the first token, which most encoders' heads read."""
    real = real_tokens(batch)
    return (real & (real.cumsum(1) == 1)).float()


def at_last(batch: Mapping[str, Tensor]) -> Tensor:
    """1 at the last token, which decoders' heads read."""
    real = real_tokens(batch)
    return (real & (real.flip(1).cumsum(1).flip(1) == 1)).float()


def real_tokens(batch: Mapping[str, Tensor]) -> Tensor:
    """Where there is no padding."""
    mask = batch.get("attention_mask")
    return torch.ones_like(batch["input_ids"], dtype=torch.bool) if mask is None else mask.bool()
