"""How long the steps of a run take, by doing some that change nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import TrainingArguments

from ..methods import Prepared
from .plan import Speed

TIMES = 3  # each kind of step is timed, after one that warms it up
MISSED = (1e-3, 0.5)  # of the gradient, by which hardly any tokens are left out of the backward, and most of them
Batch = Mapping[str, Tensor]


class Timed(NamedTuple):
    """Seconds of a step, tokens of its batch with padding, and the share of them in the backward."""

    seconds: float
    tokens: int
    share: float


class Stopwatch:
    """Times steps of a model that is ready for training; its weights stay, bit for bit.

    Args:
        cost: as `Report.cost` has it, with its layers where tokens can be left out.
        limit: seconds after which no kind of step is repeated.
    """

    def __init__(self, prepared: Prepared, cost: Mapping[str, Any], args: TrainingArguments, limit: float):
        self.prepared, self.args, self.until = prepared, args, time.perf_counter() + limit
        self.layers = cost.get("layers", {})
        for group in prepared.optimizer.param_groups:
            group["lr"] = 0.0

    def trains(self, batch: Batch, missed: float) -> Timed:
        """A step forward and back, with that part of the gradient left out, where any can be."""
        active, optimizer = self.prepared.active, self.prepared.optimizer
        for layer in (active or {}).values():
            layer.part = missed if active.noise else 1 - missed
        self.prepared.model.train()

        def step() -> None:
            with self._precision():
                loss = self.prepared.model(**batch).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        if active:
            active.counts(reset=True)
        return Timed(self._median(step), batch["input_ids"].numel(), self._share())

    def reads(self, batch: Batch) -> float:
        """Seconds of a forward pass in evaluation."""
        self.prepared.model.eval()

        def step() -> None:
            with torch.no_grad(), self._precision():
                self.prepared.model(**batch)

        return self._median(step)

    def _precision(self) -> torch.autocast:
        dtype = torch.float16 if self.args.fp16 else torch.bfloat16
        return torch.autocast(self.args.device.type, dtype, enabled=self.args.fp16 or self.args.bf16)

    def _median(self, step: Callable[[], None]) -> float:
        self._seconds(step)
        found = [self._seconds(step)]
        while len(found) < TIMES and time.perf_counter() < self.until:
            found.append(self._seconds(step))
        return median(found)

    def _seconds(self, step: Callable[[], None]) -> float:
        started = time.perf_counter()
        step()
        if self.args.device.type != "cpu":
            torch.accelerator.synchronize()
        return time.perf_counter() - started

    def _share(self) -> float:
        """Of the tokens in the backward since they were last counted, each layer's by what it costs."""
        counts = self.prepared.active.counts(reset=True) if self.prepared.active else {}
        came = sum(self.layers[name] * count for name, (_, count) in counts.items())
        return sum(self.layers[name] * kept for name, (kept, _) in counts.items()) / came if came else 1.0


def speed_of(most: Timed, half: Timed, least: Timed | None, read: float) -> Speed:
    """What these steps say of others: seconds of a batch, of its tokens, and of those in the backward.

    Args:
        most: with hardly any token left out.
        half: the same of a smaller batch.
        least: with most tokens left out; None where none can be.
        read: seconds for which the batch of `most` is read alone.
    """
    active = None
    if least is not None:
        dropped = most.tokens * (most.share - least.share)
        active = max(0.0, most.seconds - least.seconds) / dropped if dropped > 0 else 0.0
    whole, smaller = (step.seconds - (active or 0.0) * step.tokens * step.share for step in (most, half))
    more, each = most.tokens - half.tokens, max(0.0, whole) / most.tokens
    if more > 0:
        each = min(each, max(0.0, whole - smaller) / more)
    return Speed(max(0.0, whole - each * most.tokens), each, active, read / most.tokens)


@contextmanager
def same_modes(model: nn.Module) -> Iterator[ExitStack]:
    """What is pushed there is undone at the end, and each module then trains or evaluates as before."""
    modes = {module: module.training for module in model.modules()}
    with ExitStack() as undo:
        yield undo
    for module, mode in modes.items():
        module.training = mode
