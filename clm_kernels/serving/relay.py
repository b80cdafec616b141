"""Hidden states that are handed from one model's layers to another's: what is the same in both runs once."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn

from ..errors import require


class State(NamedTuple):
    """What a layer gave: its hidden states, and how many Nones came with them; -1 for a tensor alone."""

    hidden: Tensor
    extra: int

    @classmethod
    def of(cls, output: Any) -> State:
        first, *rest = output if isinstance(output, tuple) else (output,)
        alone = all(part is None for part in rest)
        require(alone, "Trunk.classify", "the model", "one whose layers hand on hidden states alone", type(output).__name__)
        return cls(first, len(rest) if isinstance(output, tuple) else -1)

    def given(self, hidden: Tensor) -> Any:
        """Hidden states as that layer would give them."""
        return hidden if self.extra < 0 else (hidden, *[None] * self.extra)


@contextmanager
def handing(
    layers: Sequence[nn.Module], states: dict[int, State], begin: int = 0, keep: Collection[int] = (), end: int | None = None
) -> Iterator[None]:
    """Layers that begin and end where they are told, inside the ``with`` block.

    Args:
        layers: of a model, in order.
        states: by number of a layer, what the layers below it give.
        begin: the first layer that runs; those below hand on ``states[begin]``.
        keep: numbers of layers whose ``states`` are kept in the run.
        end: the layers from this one on hand on what they get; None for none.
    """

    def run(i: int, forward: Any, *args: Any, **kwargs: Any) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        if i < begin:
            return states[begin].given(states[begin].hidden if i == 0 else hidden)
        if end is not None and i >= end:
            return states[end].given(hidden)
        output = forward(*args, **kwargs)
        if i + 1 in keep:
            states[i + 1] = State.of(output)
        return output

    own = [vars(layer).get("forward") for layer in layers]
    try:
        for i, layer in enumerate(layers):
            layer.forward = partial(run, i, layer.forward)
        yield
    finally:
        for layer, forward in zip(layers, own, strict=True):
            vars(layer).pop("forward", None)
            if forward is not None:
                layer.forward = forward
