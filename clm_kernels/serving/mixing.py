"""A base model that runs one batch for several tasks: the base's product once, and each task's part for its own texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.linear import is_conv1d
from ..models.structure import base_model
from .member import Member, is_known


class Unmixable(Exception):
    """The module at a place below the head was given something else than one input for each token of each text."""

    def __init__(self, path: str):
        super().__init__(path)
        self.path = path


class Mix:
    """Texts of several tasks in one batch, those of a task one after the other.

    Attributes:
        members: the tasks.
        bounds: of each, its texts' slice of the batch.
        shape: texts and tokens of the batch.
    """

    def __init__(self, members: Sequence[Member], counts: Sequence[int], length: int):
        ends = torch.tensor([0, *counts]).cumsum(0).tolist()
        self.members, self.shape = members, (ends[-1], length)
        self.bounds = [slice(*pair) for pair in pairwise(ends)]

    def modules(self, path: str) -> list[Any]:
        """The module at this place below the head, in each task's own model."""
        return [base_model(member.classifier.model).get_submodule(path) for member in self.members]

    def check(self, x: Tensor, path: str) -> None:
        """Raises Unmixable unless x begins with the batch's texts and tokens."""
        if tuple(x.shape[:2]) != self.shape:
            raise Unmixable(path)


@contextmanager
def mixing(mix: Mix) -> Iterator[Any]:
    """The first task's model, that runs for all of them inside the ``with`` block: what any of them changed below its head.

    What it gives above its layers is for nobody.
    """
    model = mix.members[0].classifier.model
    changed = {path for member in mix.members for path in member.changed}
    swapped = []
    try:
        for path in sorted(changed):
            module = base_model(model).get_submodule(path)
            swapped.append((module, vars(module).get("forward")))
            module.forward = _forward(module, path, mix)
        yield model
    finally:
        for module, forward in swapped:
            vars(module).pop("forward", None)
            if forward is not None:
                module.forward = forward


def _forward(module: nn.Module, path: str, mix: Mix) -> Callable[..., Tensor]:
    own = mix.modules(path)
    forwards = [each.forward for each in own]
    rows = [member.values.get(member.changed.get(path, "")) for member in mix.members]
    if isinstance(module, nn.Embedding) and any(rows):
        return partial(_embed, mix, path, forwards, rows)
    parts = [member.part(path) for member in mix.members]
    if is_known(module) and all(each.weight is module.weight for each in own):
        return partial(_linear, mix, path, module, [each.bias for each in own], parts)
    return partial(_each, mix, path, forwards, parts)


def _linear(
    mix: Mix, path: str, module: Any, biases: list[Tensor | None], parts: list[Any], x: Tensor
) -> Tensor:  # fmt: skip
    """One product with the base's weight for all texts, then biases and parts."""
    mix.check(x, path)
    same = all(bias is biases[0] for bias in biases)
    weight = module.weight.T if is_conv1d(module) else module.weight
    y = F.linear(x, weight, biases[0] if same else None)
    for bounds, bias, part in zip(mix.bounds, biases, parts, strict=True):
        if not same and bias is not None:
            y[bounds] += bias
        if part is not None:
            part.add_(y[bounds].view(-1, y.shape[-1]), x[bounds].reshape(-1, x.shape[-1]))
    return y


def _each(mix: Mix, path: str, forwards: list[Callable[..., Tensor]], parts: list[Any], x: Tensor) -> Tensor:
    """Each task's own module for its own texts."""
    mix.check(x, path)
    found = [forward(x[bounds]) for forward, bounds in zip(forwards, mix.bounds, strict=True)]
    for y, bounds, part in zip(found, mix.bounds, parts, strict=True):
        if part is not None:
            part.add_(y.view(-1, y.shape[-1]), x[bounds].reshape(-1, x.shape[-1]))
    return torch.cat(found)


def _embed(mix: Mix, path: str, forwards: list[Callable[..., Tensor]], values: list[Any], ids: Tensor) -> Tensor:
    """The base's rows, and in their place the task's own."""
    if len(ids) == 1:
        ids = ids.expand(mix.shape[0], -1)
    mix.check(ids, path)
    found = []
    for forward, bounds, own in zip(forwards, mix.bounds, values, strict=True):
        some = ids[bounds].contiguous()
        y = forward(some)
        if own is not None:
            index, rows = own[0].index.long(), own[1]
            place = torch.searchsorted(index, some).clamp_max(len(index) - 1)
            y = torch.where((index[place] == some)[..., None], rows[place], y)
        found.append(y)
    return torch.cat(found)
