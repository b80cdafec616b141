"""Which token vectors a classification head reads: the family's own choice, or one vector pooled over the real tokens."""

from __future__ import annotations

import os
from contextlib import ExitStack
from functools import partial
from typing import Any

from torch import nn

from ..defaults import POOLINGS
from ..errors import require
from ..handles import Undo
from ..strangers import brief
from .families import is_decoder
from .folders import described
from .heads import reads_text
from .pooled_head import pool_head
from .structure import base_model

KNOWN = f"one of {', '.join(POOLINGS)}"
CONFIG_KEY = "clm_pooling"
HOOKS, NATIVE = "_clm_pooling_hooks", "_clm_native_pooling"  # attributes of a model
OWN = (CONFIG_KEY, NATIVE, "classifier_pooling")  # that `set_pooling` changes, of a model and of its config
SENTENCE_TRANSFORMERS = {  # which has written one name since 6.0, and before that a truth value for each
    "mean": ("pooling_mode_mean_tokens", "mean"),
    "lasttoken": ("pooling_mode_lasttoken", "last"),
    "max": ("pooling_mode_max_tokens", "max"),
}


def pooling_of(checkpoint: str | os.PathLike) -> str:
    """How a checkpoint was trained to pool: as its config records it, or its sentence-transformers files say.

    Raises:
        ValueError: if the config records a pooling that is not known here.
    """
    recorded = described(checkpoint).get(CONFIG_KEY, "native")
    known = isinstance(recorded, str) and recorded in POOLINGS
    require(known, "pooling_of", f"{CONFIG_KEY} of {str(checkpoint)!r}", KNOWN, brief(recorded))
    if recorded != "native":
        return recorded
    found = described(checkpoint, "1_Pooling/config.json")
    modes = SENTENCE_TRANSFORMERS.items()
    told = (pooling for name, (key, pooling) in modes if found.get("pooling_mode") == name or found.get(key) is True)
    return next(told, "native")


def natural_pooling(checkpoint: str | os.PathLike) -> str:
    """What suits a base model: as its files say, else ``"last"`` for decoders, whose last token alone has read the whole text.

    Raises:
        ValueError: as `pooling_of`.
    """
    recorded = pooling_of(checkpoint)
    return "last" if recorded == "native" and is_decoder(checkpoint) else recorded


def set_pooling(model: nn.Module, pooling: str) -> Undo:
    """Makes the head of a sequence classifier, encoder or decoder, read `pooling`; recorded in the model's config, keys unchanged.

    ``"native"`` is what transformers does: mostly the first position in encoders, and in decoders the rightmost token
    that is not ``config.pad_token_id``, whatever the attention mask says. ``"last"``, ``"mean"``, ``"max"`` and
    ``"cls"`` go by the attention mask alone (`pooled_head.pool`): padding may stand on either side and be any token, the
    end-of-text token as well, texts may come as ``inputs_embeds``, and the config needs no padding id. A mask with
    holes is taken at its word. BERT's pooler layer is left out. In a causal decoder, ``"cls"`` reads a token that has
    seen nothing but itself.

    Positions are the model's own affair: GPT-2 and BERT count them from the left edge, padding included, so they need
    padding on the right, or ``position_ids``.

    Where transformers knows the mean itself (``classifier_pooling``), it is set there; elsewhere hooks put the pooled
    vector where the head looks.

    Args:
        model: a transformers model for sequence classification, changed in place.
        pooling: one of `POOLINGS`.

    Returns:
        A handle, whose `restore` brings the former pooling back.

    Raises:
        ValueError: for another pooling, or a model that is no text classifier of that kind; it is left as it was.
    """
    require(pooling in POOLINGS, "set_pooling", "pooling", KNOWN, repr(pooling))
    expected = f"a sequence classifier of texts, an encoder or a decoder, for pooling {pooling!r}"
    require(pooling == "native" or reads_text(model), "set_pooling", "model", expected, type(model).__name__)
    config = getattr(model, "config", None)
    if config is None:  # native, then, which it is already
        return Undo(model)
    hooked = vars(config).get(CONFIG_KEY) if HOOKS in vars(model) else None
    former = [{name: vars(holder)[name] for name in OWN if name in vars(holder)} for holder in (config, model)]
    with ExitStack() as failed:
        handle = failed.enter_context(Undo(model, partial(_pool_as, hooked=hooked, former=former)))
        _unhook(model)
        knows_mean = hasattr(config, "classifier_pooling")
        if knows_mean:
            native = model.__dict__.setdefault(NATIVE, config.classifier_pooling)
            config.classifier_pooling = "mean" if pooling == "mean" else native
            if hasattr(model, "classifier_pooling"):  # EuroBERT's copy, which it reads instead
                model.classifier_pooling = config.classifier_pooling
        by_hook = pooling != "native" and not (knows_mean and pooling == "mean")
        setattr(config, CONFIG_KEY, pooling if by_hook else "native")
        if by_hook:
            setattr(model, HOOKS, pool_head(model, base_model(model), pooling))
        failed.pop_all()
    return handle


def _unhook(model: nn.Module) -> None:
    for hook in model.__dict__.pop(HOOKS, ()):
        hook.remove()


def _pool_as(model: nn.Module, hooked: str | None, former: list[dict[str, Any]]) -> None:
    """Undoes what has become of the hooks and of these attributes since `set_pooling` looked at them."""
    _unhook(model)
    if hooked:
        setattr(model, HOOKS, pool_head(model, base_model(model), hooked))
    for holder, attributes in zip((model.config, model), former, strict=True):
        for name in OWN:
            vars(holder).pop(name, None)
            if name in attributes:
                setattr(holder, name, attributes[name])


def current_pooling(model: nn.Module) -> str | None:
    """What the head of this model reads, as `set_pooling` takes it; None of a model that has no such head."""
    if not reads_text(model):
        return None
    config: Any = model.config
    set_there = NATIVE in model.__dict__ and config.classifier_pooling == "mean"
    return "mean" if set_there else getattr(config, CONFIG_KEY, "native")
