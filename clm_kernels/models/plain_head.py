"""`in_plain_form`: makes a head that pools by hooks one that transformers' own class computes, wherever that is exact."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..handles import Undo
from .pooling import current_pooling, set_pooling
from .portable import pools_by_code, reads_natively
from .structure import base_model

# x -> tanh(x / 2**16) * 2**16 is x to float32's rounding: the cubic term is below 1e-8 of x for every |x| < 10. Powers of two
# scale without rounding. In float16 the head's weights would overflow.
SCALE = 2.0**16
DTYPES = (torch.float32, torch.float64, torch.bfloat16)


def in_plain_form(model: Any, batches: Iterable[Mapping[str, Tensor]]) -> Undo | None:
    """Makes the model one that its own class of transformers, without hooks, computes with the same logits; None where it cannot.

    A head that pools as its class does by itself is left as it is, where these batches have the same bits both ways. One that
    reads the first token past BERT's or ALBERT's pooler (``"cls"``) gets a pooler that changes nothing: an identity, so small
    that its tanh is straight.

    Args:
        batches: with texts as they will come, to try it on.

    Returns:
        A handle, whose `restore` brings pooling and weights back.
    """
    batches = list(batches)
    if not pools_by_code(model):
        return Undo(model)
    return set_pooling(model, "native") if reads_natively(model, batches) else straighten(model)


def straighten(model: Any) -> Undo | None:
    """Makes BERT's own pooler give what ``"cls"`` reads past it, and the head read that; None for another model or pooling.

    Returns:
        A handle, whose `restore` brings pooling and weights back.
    """
    pooler, head = pooler_of(model), getattr(model, "classifier", None)
    able = isinstance(head, nn.Linear) and head.weight.dtype in DTYPES and current_pooling(model) == "cls"
    return _straight(model, pooler, head) if able and pooler is not None else None


def pooler_names(model: Any) -> list[str]:
    """The parameters of the layer before a tanh through which the model's own class sends the first token; none without one."""
    pooler = pooler_of(model)
    own = {id(parameter) for parameter in pooler.parameters()} if pooler is not None else set()
    return [name for name, parameter in model.named_parameters() if id(parameter) in own]


def pooler_of(model: Any) -> nn.Linear | None:
    """The square layer before a tanh through which the class of BERT and ALBERT sends the first token; None of others."""
    base = base_model(model)
    pooler = getattr(base, "pooler", None)
    layer = pooler if isinstance(pooler, nn.Linear) else getattr(pooler, "dense", None)
    tanh = getattr(pooler, "activation", getattr(base, "pooler_activation", None))
    found = isinstance(layer, nn.Linear) and isinstance(tanh, nn.Tanh) and layer.in_features == layer.out_features
    return layer if found else None


@torch.no_grad()
def _straight(model: Any, pooler: nn.Linear, head: nn.Linear) -> Undo:
    kept = [(parameter, parameter.detach().clone()) for parameter in (pooler.weight, pooler.bias, head.weight)]
    with ExitStack() as failed:
        handle = failed.enter_context(Undo(model, partial(_put_back, kept=kept)))
        pooler.weight.copy_(torch.eye(pooler.in_features) / SCALE)
        pooler.bias.zero_()
        head.weight.mul_(SCALE)
        pooled = set_pooling(model, "native")
        failed.pop_all()
    return Undo(model, *handle.calls, *pooled.calls)


@torch.no_grad()
def _put_back(model: Any, kept: list[tuple[Tensor, Tensor]]) -> None:
    for parameter, values in kept:
        parameter.copy_(values)
