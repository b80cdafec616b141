"""A classification head that reads one vector of a text, pooled over its real tokens.

Needs torch alone: checkpoints that `save_portable` writes carry this file along.
"""

from __future__ import annotations

import copy
import inspect
from functools import partial

import torch
from torch import Tensor, nn

POOLED = ("last", "mean", "max", "cls")


def pool(hidden: Tensor, attention_mask: Tensor | None, pooling: str) -> Tensor:
    """One vector ``(B, H)`` for each text of ``(B, T, H)``, over the tokens that `attention_mask` holds to be real.

    ``mean`` and ``max`` take all real tokens, ``last`` the rightmost and ``cls`` the leftmost one, wherever padding
    stands; no token id is asked. Without a mask every token is real. A text without a real token gives zeros.

    The mask is ``(B, P + T)`` where P keys and values of prefix tuning stand before the text, which are never pooled.
    """
    size, length = hidden.shape[:2]
    if attention_mask is None:
        attention_mask = hidden.new_ones(size, length, dtype=torch.bool)
    real = attention_mask[:, -length:] != 0
    if pooling == "mean":
        wide = hidden.float() if hidden.dtype.itemsize < 4 else hidden  # bf16 cannot count beyond 256
        total = wide.masked_fill(~real[..., None], 0).sum(1)
        return (total / real.sum(1, keepdim=True).clamp_min(1)).to(hidden.dtype)
    if pooling == "max":
        pooled = hidden.masked_fill(~real[..., None], -torch.inf).amax(1)
    else:
        places = torch.arange(1, length + 1, device=hidden.device)
        score = real * (places if pooling == "last" else places.flip(0))
        pooled = hidden[torch.arange(size, device=hidden.device), score.argmax(1)]
    return pooled.masked_fill(~real.any(1, keepdim=True), 0)


def pool_head(model: nn.Module, base: nn.Module, pooling: str) -> list:
    """Lets the head of `model` read nothing but the pooled vector of its `base`; returns the hooks' handles.

    The vector is put into every position of the last hidden states, and into ``pooler_output``: wherever a head looks,
    it finds it. So decoders' heads, which look where the ids last differ from the padding id, need no such id.
    """
    handles = [base.register_forward_hook(partial(_put_pooled, pooling), with_kwargs=True)]
    if model.config.get_text_config().pad_token_id is None:  # transformers then refuses batches
        handles.append(model.register_forward_pre_hook(_lend_pad_id))
        handles.append(model.register_forward_hook(_take_pad_id_back, always_call=True))
    return handles


def _put_pooled(pooling: str, base: nn.Module, args: tuple, kwargs: dict, output):
    if isinstance(output, tuple):
        raise ValueError(f"pooling {pooling}: return_dict must be True, got outputs of {type(base).__name__} in a tuple")
    hidden = output.last_hidden_state
    pooled = pool(hidden, _checked_mask(hidden, base, args, kwargs), pooling)
    output = copy.copy(output)
    output.last_hidden_state = pooled[:, None].expand_as(hidden)
    if getattr(output, "pooler_output", None) is not None:
        output.pooler_output = pooled
    return output


def _checked_mask(hidden: Tensor, base: nn.Module, args: tuple, kwargs: dict) -> Tensor | None:
    mask = kwargs.get("attention_mask")
    if mask is None and args:
        mask = dict(zip(inspect.signature(type(base).forward).parameters, (base, *args))).get("attention_mask")
    if mask is None:
        return None
    texts, tokens = hidden.shape[:2]
    shape = tuple(mask.shape) if isinstance(mask, Tensor) else ()
    before = any(map(is_cache, (*args, *kwargs.values())))  # their keys and values stand in the mask, without hidden states
    if len(shape) != 2 or shape[0] != texts or shape[1] < tokens or (shape[1] > tokens and not before):
        found = shape or type(mask).__name__
        raise ValueError(f"pooling: attention_mask must be of shape ({texts}, {tokens}), a number for each token, got {found}")
    return mask


def is_cache(value: object) -> bool:
    """Whether it holds the keys and values of earlier tokens: told by what it can do, since transformers 5.24 renamed the argument."""
    return hasattr(value, "get_seq_length")


def _lend_pad_id(model: nn.Module, args: tuple) -> None:
    config = model.config.get_text_config()
    if config.pad_token_id is None:
        config.pad_token_id, model._clm_lent = 0, True  # any id does: the head finds the same vector everywhere


def _take_pad_id_back(model: nn.Module, args: tuple, output) -> None:
    if model.__dict__.pop("_clm_lent", False):
        model.config.get_text_config().pad_token_id = None
