"""`replay`: layers below all that is trained run once for each text; from then on, what they gave is replayed."""

from __future__ import annotations

import inspect
import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import require
from .keeping import Keeping, check_inputs, evaluating, padded
from .mixing import mixes_layers
from .structure import depths, layers_of

TOKENS_FIRST = ("xlnet",)  # types whose layers take (tokens, texts, features)


class Replay(Keeping):
    """What `replay` has put into a model; `restore` takes it out and forgets what was kept.

    Attributes:
        model: whose layers are replayed.
        layers: how many layers are replayed.
        texts: how many texts have run through them and are kept.
        nbytes: bytes of what is kept.
        file: what `fill` has done with its file: ``"read"``, ``"written"``, or ``"written anew: ..."`` and why; empty without.
    """

    def __init__(self, model: nn.Module, max_bytes: float = 4e9):
        require(
            not mixes_layers(model), "replay", "model", "one whose head reads the last layer alone", "one that mixes all layers"
        )
        first = getattr(getattr(model, "config", None), "model_type", "")
        require(first not in TOKENS_FIRST, "replay", "model", "one whose layers take texts before tokens", repr(first))
        every, depth = layers_of(model), depths(model)
        lowest = min((depth[name] for name, p in model.named_parameters() if p.requires_grad), default=math.inf)
        self.layers = int(min(lowest, len(every)))
        require(self.layers >= 1, "replay", "model", "trained in its upper layers alone", f"one trained from layer {lowest} on")
        super().__init__(model, {name: p for name, p in model.named_parameters() if depth[name] < self.layers}, max_bytes)
        self._signature = inspect.signature(type(self.base).forward)
        self._batch: Any = None  # what the layers gave for the batch that is running
        self._recording = False
        self._forward = self.base.__dict__.get("forward")
        self._hook = self.base.register_forward_pre_hook(self._before, with_kwargs=True)
        self._own = {layer: layer.__dict__.get("forward") for layer in every}
        for i, layer in enumerate(every):
            layer.forward = partial(self._layer, i, layer.forward)

    def _undo(self) -> None:
        self._hook.remove()
        for layer, forward in self._own.items():
            layer.__dict__.pop("forward", None)
            if forward is not None:
                layer.forward = forward
        self._batch = None
        self.clear()

    def _before(self, base: nn.Module, args: tuple, kwargs: dict) -> None:
        """Before the base model runs: what its lower layers give for this batch."""
        if not self._recording and self.base.__dict__.get("forward") is self._forward:  # else it runs no layer
            given = self._inputs(args, kwargs)
            self._batch = padded(self._recall(given), given)

    def _inputs(self, args: tuple, kwargs: dict) -> dict[str, Tensor]:
        bound = self._signature.bind_partial(self.base, *args, **kwargs).arguments
        found = {name: value for name, value in bound.items() if isinstance(value, Tensor)}
        check_inputs(found)
        return found

    def _record(self, given: dict[str, Tensor]) -> Tensor:
        """Runs the lower layers without dropout; the others and the head hand on what they get."""
        self._recording = True
        try:
            with evaluating(self.base), torch.no_grad():
                self.base(**given)
            return self._batch
        finally:
            self._recording = False

    def _layer(self, i: int, forward: Any, *args: Any, **kwargs: Any) -> Any:
        """The forward of layer i."""
        hidden = args[0] if args else kwargs["hidden_states"]
        if self._recording and i < self.layers:
            output = forward(*args, **kwargs)
            first, *rest = output if isinstance(output, (tuple, list)) else (output,)
            alone = all(part is None for part in rest)
            require(alone, "replay", "model", "one whose layers hand on hidden states alone", type(self.base).__name__)
            self._extra, self._batch = (len(rest) if isinstance(output, (tuple, list)) else -1), first
            return output
        if self._recording or i < self.layers:
            handed = self._batch if i == 0 else hidden
            return handed if self._extra < 0 else (handed, *[None] * self._extra)
        return forward(*args, **kwargs)


def replay(model: nn.Module, max_bytes: float = 4e9) -> Replay:
    """Runs the frozen layers below all that is trained once for each text, without dropout, and keeps what they give.

    Every later batch with that text, in whatever order and padding, begins at the lowest trained layer. That is as exact as
    batching is: a text's numbers differ by rounding with the shape of the batch that it was first seen in. What is kept
    takes a hidden state for each token, on the model's device; texts are told apart by their token ids.

    Args:
        model: a transformers model, patched or adapted before: what requires a gradient now is what is trained. Changed until
            `Replay.restore`, or the end of the context; weights, keys and classes stay.
        max_bytes: of what is kept; the texts beyond run through all layers each time.

    Returns:
        The `Replay`, a handle.

    Raises:
        ValueError: if something below the second layer is trained, or the model has no numbered layers; in the forward, for
            texts that are padded on the left, other inputs than ids, mask and token types, or layers that hand on more than
            hidden states.
    """
    return Replay(model, max_bytes)
