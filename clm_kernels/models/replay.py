"""`replay`: layers below all that is trained run once for each text; from then on, what they gave is replayed."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import require
from ..handles import Restorable
from .structure import base_model, depths, layers_of

INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class Replay(Restorable):
    """What `replay` has put into a model; `restore` takes it out and forgets what was kept.

    Attributes:
        model: whose layers are replayed.
        layers: how many layers are replayed.
        texts: how many texts have run through them and are kept.
        nbytes: bytes of what is kept.
    """

    def __init__(self, model: nn.Module, max_bytes: float = 4e9):
        self.model, self.base, self.max_bytes = model, base_model(model), max_bytes
        every, depth = layers_of(model), depths(model)
        lowest = min((depth[name] for name, p in model.named_parameters() if p.requires_grad), default=math.inf)
        self.layers = int(min(lowest, len(every)))
        require(self.layers >= 1, "replay", "model", "trained in its upper layers alone", f"one trained from layer {lowest} on")
        self._below = [p for name, p in model.named_parameters() if depth[name] < self.layers]
        self._signature = inspect.signature(type(self.base).forward)
        self._rows: dict[bytes, Tensor] = {}
        self._batch: Any = None  # what the layers gave for the batch that is running
        self._recording = False
        self._extra = 0  # what a layer returns beside its hidden states
        self.nbytes = 0
        self._versions = self._seen()
        self._hook = self.base.register_forward_pre_hook(self._before, with_kwargs=True)
        self._own = {layer: layer.__dict__.get("forward") for layer in every}
        for i, layer in enumerate(every):
            layer.forward = partial(self._layer, i, layer.forward)

    @property
    def texts(self) -> int:
        return len(self._rows)

    def fill(self, batches: Iterable[Mapping[str, Tensor]]) -> None:
        """Runs these texts through the layers now; so what is kept does not depend on the batches of training.

        Args:
            batches: with ``input_ids`` and what else the model reads of a text, on its device; labels may stand there too.
        """
        for batch in batches:
            self._recall({name: batch[name] for name in INPUTS if name in batch})

    def _undo(self) -> None:
        self._hook.remove()
        for layer, forward in self._own.items():
            layer.__dict__.pop("forward", None)
            if forward is not None:
                layer.forward = forward
        self.clear()

    def clear(self) -> None:
        """Forgets what was kept."""
        self._rows, self._batch, self.nbytes = {}, None, 0

    def _seen(self) -> list[int]:
        return [parameter._version for parameter in self._below]

    def _before(self, base: nn.Module, args: tuple, kwargs: dict) -> None:
        """Before the base model runs: what its lower layers give for this batch."""
        if self._recording:
            return
        given = self._inputs(args, kwargs)
        rows = self._recall(given)
        self._batch = rows[0].new_zeros(*given["input_ids"].shape, rows[0].shape[-1])
        for place, row in zip(self._batch, rows):
            place[: len(row)] = row

    def _recall(self, given: dict[str, Tensor]) -> list[Tensor]:
        """What the lower layers give for each text's tokens: as it is kept, or run now."""
        if self._versions != (versions := self._seen()):
            self.clear()
            self._versions = versions
        ids = given["input_ids"]
        lengths = _lengths(given.get("attention_mask"), ids)
        keys = _keys(given, lengths)
        missing = [i for i, key in enumerate(keys) if key not in self._rows]
        new = {}
        if missing:
            longest = max(lengths[i] for i in missing)
            hidden = self._record({name: tensor[missing, :longest] for name, tensor in given.items()})
            new = {keys[i]: row[: lengths[i]] for i, row in zip(missing, hidden)}
            for key, row in new.items():
                self._keep(key, row)
        return [self._rows[key] if key in self._rows else new[key] for key in keys]

    def _inputs(self, args: tuple, kwargs: dict) -> dict[str, Tensor]:
        bound = self._signature.bind_partial(self.base, *args, **kwargs).arguments
        found = {name: value for name, value in bound.items() if isinstance(value, Tensor)}
        unknown = sorted(set(found) - set(INPUTS))
        require(
            "input_ids" in found and not unknown, "replay", "inputs", f"of {', '.join(INPUTS)}", ", ".join(unknown) or "no ids"
        )
        return found

    def _keep(self, key: bytes, row: Tensor) -> None:
        if self.nbytes + row.nbytes <= self.max_bytes:
            self._rows[key] = row.clone()
            self.nbytes += row.nbytes

    def _record(self, given: dict[str, Tensor]) -> Tensor:
        """Runs the lower layers without dropout; the others and the head hand on what they get."""
        self._recording = True
        try:
            with _evaluating(self.base), torch.no_grad():
                self.base(**given)
            return self._batch
        finally:
            self._recording = False

    def _layer(self, i: int, forward: Any, *args: Any, **kwargs: Any) -> Any:
        """The forward of layer i."""
        hidden = args[0] if args else kwargs["hidden_states"]
        if self._recording and i < self.layers:
            output = forward(*args, **kwargs)
            first, *rest = output if isinstance(output, tuple) else (output,)
            alone = all(part is None for part in rest)
            require(alone, "replay", "model", "one whose layers hand on hidden states alone", type(self.base).__name__)
            self._extra, self._batch = (len(rest) if isinstance(output, tuple) else -1), first
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


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


def _lengths(mask: Tensor | None, ids: Tensor) -> list[int]:
    """How many tokens each text has."""
    if mask is None:
        return [ids.shape[1]] * len(ids)
    require(mask.dim() == 2, "replay", "attention_mask", "one number a token", f"the shape {tuple(mask.shape)}")
    real = mask.bool()
    require(
        bool((real[:, 1:] <= real[:, :-1]).all()),
        "replay",
        "texts",
        "padded on the right (tokenizer.padding_side)",
        "padding before",
    )
    return real.sum(1).tolist()


def _keys(given: dict[str, Tensor], lengths: list[int]) -> list[bytes]:
    """What tells each text of a batch from all others."""
    arrays = [given[name].cpu().numpy() for name in INPUTS if name in given and name != "attention_mask"]
    return [b"|".join(array[i, :length].tobytes() for array in arrays) for i, length in enumerate(lengths)]
