"""Where the time of a training step goes, read from the events of torch's profiler.

A linear weight's gradient and its input's are made by one node of autograd: they are told apart by the shapes of its
products. What a kernel computes at once (the two gradients of a layer norm) counts as gradient of the input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from torch import nn
from torch.autograd import DeviceType

PHASES = ("forward", "input gradients", "weight gradients", "optimizer", "data", "other", "idle")
FORWARD = "clm_kernels.forward"  # the range that `profiling` puts around the model's forward pass
NODE = "autograd::engine::evaluate_function: "
STEP, ZERO_GRAD = "Optimizer.step#", "Optimizer.zero_grad#"
WEIGHTS_ONLY = ("torch::autograd::AccumulateGrad", "EmbeddingBackward", "TBackward", "EmbeddingFunction")
COMPACT = ("clm_kernels::weight_grad", "clm_kernels::embedding_grad", "clm_kernels::masked_grad_")
OPS = (*COMPACT, "clm_kernels::input_grad", "clm_kernels::active_tokens")  # what they are made of is not looked into
PRODUCTS = ("aten::mm", "aten::bmm")


@dataclass
class Step:
    """Start and end in microseconds of the profiler's clock, and milliseconds by phase."""

    start: float
    end: float
    milliseconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))


def trained_shapes(model: nn.Module) -> set[tuple[int, ...]]:
    """Shapes of what the model trains."""
    return {tuple(p.shape) for p in model.parameters() if p.requires_grad}


def split(events: Iterable, shapes: set[tuple[int, ...]], on_gpu: bool) -> list[Step]:
    """The steps between one optimizer step's end and the next one's.

    On the CPU all time counts, that between the events too: before a forward pass it is data, before a backward pass
    still forward (the loss), before an optimizer step other (clipping, say). On a GPU the kernels' own time counts, and
    what is missing to the time that passed is idle.

    Args:
        events: torch's `FunctionEvent`, recorded with shapes.
        shapes: of `trained_shapes`.
    """
    tops = sorted((e for e in events if _is_top(e)), key=lambda e: e.time_range.start)
    ends = [e.time_range.end for e in tops if e.name.startswith(STEP)]
    steps = [Step(start, end) for start, end in pairwise(ends)]
    for step in steps:
        inside = [e for e in tops if step.start <= e.time_range.start < step.end]
        (_gpu_times if on_gpu else _cpu_times)(step, inside, shapes)
    return steps


def _is_top(event) -> bool:
    return event.cpu_parent is None and event.device_type == DeviceType.CPU and not event.is_async


def _phase(event) -> str | None:
    name = event.name
    if name == FORWARD:
        return "forward"
    if name.startswith(NODE):
        return "backward"
    return "optimizer" if name.startswith((STEP, ZERO_GRAD)) else None


def _gap(before: str, after: str) -> str:
    """What the time between two phases is."""
    if after == "forward":
        return "data"
    if after == "backward":
        return "forward" if before == "forward" else "input gradients"
    return "other"


def _cpu_times(step: Step, events: list, shapes: set[tuple[int, ...]]) -> None:
    clock, before = step.start, "optimizer"
    for event in events:
        if (phase := _phase(event)) is None:
            continue
        _add(step, _gap(before, phase), event.time_range.start - clock)
        _add_event(step, event, phase, shapes, lambda e: e.time_range.elapsed_us())
        clock, before = event.time_range.end, phase


def _gpu_times(step: Step, events: list, shapes: set[tuple[int, ...]]) -> None:
    waiting, before = [], "optimizer"
    for event in events:
        phase = _phase(event)
        if phase is None:
            waiting.append(event)
            continue
        for other in waiting:
            _add(step, _gap(before, phase), other.device_time_total)
        waiting, before = [], phase
        _add_event(step, event, phase, shapes, lambda e: e.device_time_total)
    step.milliseconds["idle"] = max(0.0, (step.end - step.start) / 1e3 - sum(step.milliseconds.values()))


def _add_event(step: Step, event, phase: str, shapes: set[tuple[int, ...]], time: Callable) -> None:
    if phase != "backward":
        _add(step, phase, time(event))
        return
    weights = sum(map(time, _weight_events(event, shapes)))
    _add(step, "weight gradients", weights)
    _add(step, "input gradients", time(event) - weights)


def _add(step: Step, phase: str, microseconds: float) -> None:
    step.milliseconds[phase] += microseconds / 1e3


def _weight_events(node, shapes: set[tuple[int, ...]]) -> Iterator:
    """The events within a backward node that make gradients of weights."""
    if node.name.removeprefix(NODE).startswith(WEIGHTS_ONLY):
        yield node
        return
    products = []
    for event in _descendants(node):
        sizes = event.input_shapes or []
        if event.name in COMPACT or (event.name == "aten::sum" and sizes and tuple(sizes[0][-1:]) in shapes):
            yield event
        elif event.name in PRODUCTS and (*sizes[0][:-1], sizes[1][-1]) in shapes:
            products.append(event)
    # Both products fit where a weight is as high as there are tokens: then torch's order of making them tells.
    yield from products[:1] if node.name.startswith(NODE + "MmBackward") else products[-1:]


def _descendants(event) -> Iterator:
    for child in event.cpu_children:
        yield child
        if child.name not in OPS:
            yield from _descendants(child)
