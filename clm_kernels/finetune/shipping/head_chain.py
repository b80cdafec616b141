"""A classification head as a chain of linear layers, each with its activation: what other libraries can hold of it."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...models.plain_head import pooler_of
from ...models.pooled_head import pool
from ...models.pooling import current_pooling
from ...models.portable import pools_by_code
from ...models.structure import base_model


class Layer(NamedTuple):
    linear: nn.Linear
    activation: str  # of torch.nn, by its name


def read_by_head(model: Any) -> str:
    """Which vector of the hidden states the head reads: ``"mean"``, ``"max"``, ``"cls"`` or ``"last"``."""
    pooling = current_pooling(model)
    if pooling not in (None, "native"):
        return pooling
    known = getattr(model.config, "classifier_pooling", None)
    return "last" if hasattr(model, "score") else "mean" if known == "mean" else "cls"


def pooled(model: Any, batch: Any) -> Tensor:
    """That vector of each text, of the model as it stands in memory."""
    hidden = base_model(model)(**batch).last_hidden_state  # with the pooled vector everywhere, where hooks pool
    return hidden[:, 0] if pools_by_code(model) else pool(hidden, batch.get("attention_mask"), read_by_head(model))


def head_chain(model: Any) -> list[Layer]:
    """The layers between that vector and the logits, by what the classes of transformers call them; empty for another head."""
    head, score = getattr(model, "classifier", None), getattr(model, "score", None)
    if isinstance(score, nn.Linear):
        return [Layer(score, "Identity")]
    if isinstance(getattr(head, "out_proj", None), nn.Linear) and isinstance(getattr(head, "dense", None), nn.Linear):
        return [Layer(head.dense, "Tanh"), Layer(head.out_proj, "Identity")]
    if not isinstance(head, nn.Linear):
        return []
    return [*_before(model), Layer(head, "Identity")]


def _before(model: Any) -> list[Layer]:
    if isinstance(getattr(model, "pre_classifier", None), nn.Linear):  # DistilBERT
        return [Layer(model.pre_classifier, "ReLU")]
    own = getattr(getattr(model, "pooler", None), "dense", None)
    if isinstance(own, nn.Linear):  # DeBERTa
        return [Layer(own, "GELU")]
    pooler = pooler_of(model) if current_pooling(model) == "native" else None
    return [Layer(pooler, "Tanh")] if pooler is not None else []


def through(chain: list[Layer], vectors: Tensor) -> Tensor:
    """The logits."""
    for layer in chain:
        vectors = getattr(nn, layer.activation)()(torch.nn.functional.linear(vectors, layer.linear.weight, layer.linear.bias))
    return vectors
