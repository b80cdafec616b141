"""`profiling`: a context manager around any training loop."""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.autograd.profiler import record_function
from torch.profiler import ProfilerActivity, profile

from ...patching.active import active_shares
from . import memory
from .phases import FORWARD, split, trained_shapes


@dataclass(frozen=True)
class Report:
    """What a training step costs.

    Attributes:
        device: ``"cpu"`` or ``"cuda"``.
        step: milliseconds of a step without the profiler, the median.
        milliseconds: of the median step under the profiler, by phase (see `phases`); its sum is that step's time.
        bytes: of weights, gradients (all that live at the optimizer's step), optimizer state and activations (what the
            forward pass leaves for the backward pass).
        peak: the most bytes that these and everything between them take at a time.
        active: share of the tokens that took part in the backward since they were last counted, by the names of the linear
            layers that leave some out.
    """

    device: str
    step: float
    milliseconds: dict[str, float]
    bytes: dict[str, int]
    peak: int
    active: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict:
        return asdict(self)


class profiling:
    """Measures some steps of the training loop inside: time by phase, memory by purpose, and a Chrome trace.

    ```python
    with clm.profiling(model, optimizer, trace="trace.json") as profiled:
        trainer.train()                  # or any loop that calls model(...), backward() and optimizer.step()
    print(profiled.report)
    ```

    Nothing but the first steps is measured: the first `warm_up`, then `steps` more under torch's profiler, which slows
    them down somewhat. A step ends where `optimizer.step()` does.

    Args:
        model: the module whose call is the forward pass, patched or not; the one that a wrapper (DDP, the Trainer) calls.
        optimizer: any torch optimizer.
        steps: how many steps to profile.
        warm_up: steps before, of which the time without the profiler is taken; the first is left out.
        trace: file for the Chrome trace (chrome://tracing, ui.perfetto.dev), .json or .json.gz. On a GPU the allocator's
            snapshot (pytorch.org/memory_viz) is saved beside it as .pickle.

    Raises:
        RuntimeError: by `report`, if there were too few steps.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        steps: int = 5,
        warm_up: int = 4,
        trace: str | Path | None = None,
    ):
        if steps < 1 or warm_up < 2:
            raise ValueError(f"profiling: steps must be at least 1 and warm_up at least 2, got {steps} and {warm_up}")
        self.model, self.optimizer, self.steps, self.warm_up = model, optimizer, steps, warm_up
        self.trace = None if trace is None else Path(trace)
        self.device = next(model.parameters()).device
        self.on_gpu = self.device.type == "cuda"
        self._ends: list[float] = []
        self._hooks: list = []
        self._profiler: Any = None
        self._range: Any = None
        self._report: Report | None = None
        self._gradients = 0

    def __enter__(self) -> profiling:
        self._hooks = [
            self.model.register_forward_pre_hook(self._before_forward),
            self.model.register_forward_hook(self._after_forward, always_call=True),
            self.optimizer.register_step_pre_hook(self._before_step),
            self.optimizer.register_step_post_hook(self._after_step),
        ]
        return self

    def __exit__(self, error_type: type[BaseException] | None, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()
        self._leave_range()
        if self._profiler is not None:
            self._stop(measured=error_type is None and self._finished)

    @property
    def report(self) -> Report:
        """What was measured."""
        if self._report is None:
            needed = self.warm_up + self.steps + 1
            raise RuntimeError(f"profiling: the loop must take at least {needed} steps to be measured, got {len(self._ends)}")
        return self._report

    @property
    def _finished(self) -> bool:
        return len(self._ends) > self.warm_up + self.steps

    def _before_forward(self, *_: object) -> None:
        if self._profiler is not None:
            if self._finished:  # not right at the end of a step: torch is still recording the step itself then
                self._stop(measured=True)
            else:
                self._range = record_function(FORWARD)
                self._range.__enter__()

    def _after_forward(self, *_: object) -> None:
        self._leave_range()

    def _leave_range(self) -> None:
        if self._range is not None:
            self._range.__exit__(None, None, None)
            self._range = None

    def _before_step(self, *_: object) -> None:
        if self._profiler is not None:
            self._gradients = max(self._gradients, memory.gradients(self.optimizer))

    def _after_step(self, *_: object) -> None:
        if self._finished:
            return
        if self.on_gpu:
            torch.cuda.synchronize(self.device)
        self._ends.append(time.perf_counter())
        if len(self._ends) == self.warm_up:
            self._start()

    def _start(self) -> None:
        """From here on the profiler records; the first step, which it sees in part, only marks where the next one begins."""
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * self.on_gpu
        self._profiler = profile(activities=activities, record_shapes=True, profile_memory=True)
        if self.on_gpu and self.trace:
            torch.cuda.memory._record_memory_history()
        self._profiler.start()

    def _stop(self, measured: bool) -> None:
        profiler, self._profiler = self._profiler, None
        profiler.stop()
        if self.on_gpu and self.trace:
            if measured:
                torch.cuda.memory._dump_snapshot(str(self.trace.with_name(self.trace.name.partition(".")[0] + ".pickle")))
            torch.cuda.memory._record_memory_history(enabled=None)
        if measured:
            self._report = self._measure(profiler)
            if self.trace:
                profiler.export_chrome_trace(str(self.trace))

    def _measure(self, profiler: profile) -> Report:
        events, curve = profiler.events(), memory.Curve(profiler, self.device)
        steps = split(events, trained_shapes(self.model), self.on_gpu)
        median = sorted(steps, key=lambda step: step.end - step.start)[len(steps) // 2]
        forwards = [e.time_range for e in events if e.name == FORWARD and e.device_type == memory.DEVICES["cpu"]]
        held = {
            "weights": memory.weights(self.model),
            "gradients": self._gradients,
            "optimizer state": memory.optimizer_state(self.optimizer),
        }
        at_start = sum(held.values())  # gradients are cleared only after a step has ended
        held["activations"] = max(curve.at(forward.end) - curve.at(forward.start) for forward in forwards)
        peak = max(curve.highest(step.start, step.end) - curve.at(step.start) for step in steps)
        ends = self._ends[: self.warm_up]
        return Report(
            device=self.device.type,
            step=1e3 * statistics.median(after - before for before, after in pairwise(ends)),
            milliseconds=median.milliseconds,
            bytes=held,
            peak=at_start + peak,
            active=active_shares(self.model),
        )
