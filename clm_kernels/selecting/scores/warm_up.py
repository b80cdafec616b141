"""A short training of the head alone, on features computed once."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...models.compat import is_cache
from ...models.structure import base_model, head_names, weights
from .frozen import frozen


def warm_up_head(model: nn.Module, batches: Sequence[Mapping[str, Tensor]], *, epochs: int = 10, lr: float = 1e-3) -> None:
    """Trains the head's parameters on the frozen base model's outputs, which are computed only once, in place.

    Args:
        model: a transformers classifier.
        batches: with ``labels``, on the model's device.
        epochs: passes over the batches.
        lr: of AdamW, without weight decay.
    """
    base, names = base_model(model), head_names(model)
    if not names:
        return
    named = weights(model)
    replayed: dict = {}
    own_forward = base.__dict__.get("forward")
    # Before all other hooks: they run again at every replay.
    recording = base.register_forward_hook(lambda module, args, output: replayed.update(output=_uncached(output)), prepend=True)
    with frozen(model):
        try:
            for name in names:
                named[name].requires_grad_(True)
            optimizer = torch.optim.AdamW([named[name] for name in names], lr=lr, weight_decay=0.0)
            with torch.no_grad():
                features = [(model(**batch), replayed.pop("output"))[1] for batch in batches]
            recording.remove()
            base.forward = lambda *args, **kwargs: copy.copy(replayed["output"])
            with torch.enable_grad():
                for _ in range(epochs):
                    for batch, replayed["output"] in zip(batches, features, strict=True):
                        model(**batch).loss.backward()
                        optimizer.step()
                        optimizer.zero_grad()
        finally:
            recording.remove()
            base.__dict__.pop("forward", None)
            if own_forward is not None:
                base.forward = own_forward


def _uncached(output: Any) -> Any:
    """Without the keys and values of every layer, which decoders give along and no head reads."""
    if not hasattr(output, "items"):
        return output
    return type(output)(**{name: value for name, value in output.items() if not is_cache(value)})
