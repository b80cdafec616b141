"""How many rows the input embedding has."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..handles import Undo

MISSING = object()


def resize_embedding(model: nn.Module, rows: int) -> Undo:
    """Gives the input embedding, and an output embedding that is tied to it, so many rows; the config follows.

    Rows that stay keep their bits; what new ones hold is undefined. The random state is left alone.

    Returns:
        A handle, whose `restore` takes new rows away, or puts back those that were cut off; the others stay as they are then.

    Raises:
        ValueError: if the model has no input embedding that can be resized, or an output for every token that is not
            tied to it or has a bias.
    """
    if not hasattr(model, "resize_token_embeddings") or model.get_input_embeddings() is None:
        raise ValueError(f"resize_embedding: model must be one of transformers with an embedding, got {type(model).__name__}")
    embedding, output = model.get_input_embeddings(), model.get_output_embeddings()
    weight = embedding.weight
    if output is not None and (output.weight is not weight or getattr(output, "bias", None) is not None):
        raise ValueError(
            f"resize_embedding: model must have no output for every token but one tied to its embedding, without a bias, "
            f"got {type(model).__name__}"
        )
    cut = weight.detach()[rows:].clone()
    former = [vars(holder).get(name, MISSING) for holder, name in _sized(model)]
    held, size = weight.data, len(weight)
    try:
        _resize(model, rows)
    except BaseException:
        for module in filter(None, (embedding, output)):
            module.weight = weight
        weight.data, embedding.num_embeddings = held, size
        if hasattr(output, "out_features"):
            output.out_features = size
        model.set_input_embeddings(embedding)
        _put_back(model, former)
        raise
    return Undo(model, partial(_resize_back, rows=size, cut=cut, former=former))


def _sized(model: nn.Module) -> list[tuple[Any, str]]:
    """What else transformers changes when it resizes: holder and attribute."""
    return [(model.config.get_text_config(), "vocab_size"), (model, "vocab_size"), (model.get_input_embeddings(), "padding_idx")]


def _resize(model: nn.Module, rows: int) -> None:
    weight = model.get_input_embeddings().weight
    with torch.random.fork_rng([weight.device] if weight.is_cuda else []):
        model.resize_token_embeddings(rows, mean_resizing=False)


def _resize_back(model: nn.Module, rows: int, cut: Tensor, former: list[Any]) -> None:
    _resize(model, rows)
    if len(cut):
        weight = model.get_input_embeddings().weight
        with torch.no_grad():
            weight[rows - len(cut) :] = cut.to(weight.device)
    _put_back(model, former)


def _put_back(model: nn.Module, former: list[Any]) -> None:
    for (holder, name), value in zip(_sized(model), former, strict=True):
        vars(holder).pop(name, None)
        if value is not MISSING:
            setattr(holder, name, value)
