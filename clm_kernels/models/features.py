"""`features`: where the whole base model is frozen, what the head reads of each text is computed once."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions

from ..errors import require
from .heads import task_by_head
from .keeping import Keeping, check_inputs, padded
from .mixing import states_of, states_read
from .pooled_head import POOLED, pool
from .pooling import current_pooling
from .replay import replay
from .structure import base_model, number_of_layers


class Features(Keeping):
    """What `features` has put into a model; `restore` takes it out and forgets what was kept.

    Attributes:
        model: whose base model runs once for each text.
        layers: how many layers it has.
        texts: how many texts have run through them and are kept.
        nbytes: bytes of what is kept.
        file: what `fill` has done with its file: ``"read"``, ``"written"``, or ``"written anew: ..."`` and why; empty without.
    """

    def __init__(self, model: nn.Module, max_bytes: float = 4e9):
        base, pooling = base_model(model), current_pooling(model)
        inside = {id(parameter) for parameter in base.parameters()} if base is not model else set()
        below = {name: parameter for name, parameter in model.named_parameters() if id(parameter) in inside}
        require(bool(below), "features", "model", "a base model with a head above it", type(model).__name__)
        trained = next((name for name, parameter in below.items() if parameter.requires_grad), "")
        require(not trained, "features", "model", "trained above its base model alone", f"one whose {trained} is trained")
        reads = pooling in POOLED or (pooling is None and task_by_head(model) == "token")
        require(reads, "features", "model", f"a token classifier, or one that pools {', '.join(POOLED)}", f"pooling {pooling!r}")
        self.layers, self._states = number_of_layers(model), states_read(model)
        self._pooling = pooling if self._states == 1 or pooling != "max" else None  # a maximum of a mix is no mix of maxima
        super().__init__(model, below, max_bytes)
        self._names = list(inspect.signature(type(model).forward).parameters)[1:]
        self._texts: dict[str, Tensor] = {}  # of the batch that is running
        self._output: Any = None  # of a base model that is recorded
        self._recording = False
        self._former = base.__dict__.get("forward")
        self._forward = base.forward
        base.forward = self._replayed
        base.eval()
        base.train = self._stay  # the Trainer asks for it at each step, which would walk through all its modules
        self._hooks = [
            model.register_forward_pre_hook(self._before, with_kwargs=True),
            base.register_forward_hook(self._seen_output, prepend=True),  # before it is mixed and pooled
        ]

    def _undo(self) -> None:
        for hook in self._hooks:
            hook.remove()
        del self.base.forward, self.base.train
        self.base.train(self.model.training)
        if self._former is not None:
            self.base.forward = self._former
        self._texts = {}
        self.clear()

    def _stay(self, mode: bool = True) -> nn.Module:
        """In place of the base model's `train`: it evaluates."""
        return self.base

    def _told(self) -> list[Any]:
        return [self.layers, "features", self._pooling, self._states]

    def _before(self, model: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """Before the model runs: notes its texts; a pooled one is to it a text of a single token."""
        given = dict(zip(self._names, args)) | kwargs
        self._texts = {name: value for name, value in given.items() if isinstance(value, Tensor) and name != "labels"}
        check_inputs(self._texts)
        one = {name: value[:, :1] for name, value in self._texts.items()} if self._pooling else {}
        return (), given | one

    def _replayed(self, *args: Any, **kwargs: Any) -> Any:
        """In place of the base model's forward; under the model's autocast, as that is."""
        if self._recording:
            return self._forward(*args, **kwargs)
        rows = self._recall(self._texts)
        batch = torch.stack(rows) if self._pooling else padded(rows, self._texts)
        states = batch.unflatten(-1, (self._states, -1)).unbind(-2)
        first = states[-1][:, 0]  # where BERT's head looks for a pooled vector
        return BaseModelOutputWithPoolingAndCrossAttentions(states[-1], first, states if self._states > 1 else None)

    def _record(self, given: dict[str, Tensor]) -> Tensor:
        """Runs the base model, which evaluates: each state of each text pooled, or of each token."""
        self._recording = True
        try:
            with torch.no_grad():
                self.base(**given)
            states = states_of(self._output) if self._states > 1 else [self._output.last_hidden_state]
        finally:
            self._recording, self._output = False, None
        if self._pooling:
            mask = given.get("attention_mask")
            states = [pool(state, mask, self._pooling)[:, None] for state in states]
        return torch.cat(states, -1)

    def _seen_output(self, base: nn.Module, args: tuple, output: Any) -> None:
        if self._recording:
            self._output = output


def features(model: nn.Module, max_bytes: float = 4e9) -> Features:
    """Runs the frozen base model once for each text, without dropout, and keeps what its head reads.

    Every later batch with that text, in whatever order and padding, runs the head alone, and the mix of all layers if there
    is one (`mix_layers`). Of a pooled text one vector is kept, or one a layer; of a text with tags, or one whose mixed
    states are pooled by their maximum, those of each token. As exact, and as bound to texts padded on the right, as `replay`.

    Args:
        model: a transformers classifier; what requires a gradient now is what is trained. Changed until `Features.restore`,
            or the end of the context; weights, keys and classes stay.
        max_bytes: of what is kept; the texts beyond run through the base model each time.

    Returns:
        The `Features`, a handle.

    Raises:
        ValueError: if anything in the base model is trained, or the head reads neither tokens nor a pooled vector; in the
            forward as in `replay`'s.
    """
    return Features(model, max_bytes)


def run_once(model: nn.Module, max_bytes: float = 4e9) -> Keeping:
    """`features` where only the head is trained and reads nothing else, else `replay`.

    Raises:
        ValueError: as `replay`.
    """
    try:
        return features(model, max_bytes)
    except ValueError:
        return replay(model, max_bytes)
