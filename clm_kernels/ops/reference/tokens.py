"""Which tokens of a batch carry the gradient, and the input gradient of these alone."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ...errors import require
from ..tokens import NORM_TOP, TOP
from .gradients import accumulator, weight_grad


def active_tokens(dy: Tensor, part: float, counted: bool) -> tuple[Tensor, Tensor]:
    """By a full sort. Beyond the count stands T."""
    held = energies(dy)  # (T,)
    if held is None:
        return torch.arange(dy.shape[0], device=dy.device), torch.full((), dy.shape[0], device=dy.device)
    order = held.argsort(descending=True, stable=True)  # ties by position
    active = torch.zeros_like(held, dtype=torch.bool)
    if counted:
        chosen = order[: math.ceil(part * len(held))]
    else:
        total = int(held.sum())
        before = held[order].cumsum(0) - held[order]  # what those of higher rank hold together
        chosen = order[before < max(1, math.ceil(part * total))]
    active[chosen] = True
    active &= held > 0
    index = torch.full_like(held, len(held))
    index[: active.sum()] = active.nonzero().flatten()
    return index, active.sum()


def drawn_tokens(dy: Tensor, noise: float, start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Beyond the count stands T."""
    held = norms(dy)  # (T,)
    if held is None:
        index = torch.arange(dy.shape[0], device=dy.device)
        return index, torch.full((), dy.shape[0], device=dy.device), torch.ones(dy.shape[0], device=dy.device)
    require(0 <= float(start) < 1, "drawn_tokens", "start", "in [0, 1)", f"{float(start):f}")
    level = threshold(held, noise)
    light = held.where(held < level, 0)
    steps = light.cumsum(0) + int(float(start) * level)
    active = (held >= level) | (steps // level > (steps - light) // level)
    active &= held > 0
    index = torch.full_like(held, len(held))
    index[: active.sum()] = active.nonzero().flatten()
    weight = (level / held.clamp(min=1).double()).clamp(min=1).where(active, 0)
    return index, active.sum(), weight.float()


def threshold(held: Tensor, noise: float) -> int:
    """The largest whole number t for which the sum of ``n (t - n)`` over all norms n below it is within the budget, found by halves."""
    budget, level = math.floor(noise * float(held.square().sum())), 0
    for bit in reversed(range(NORM_TOP.bit_length() + 1)):
        larger = level + (1 << bit)
        light = held.where(held < larger, 0)
        if int((light * (larger - light)).sum()) <= budget:
            level = larger
    return max(level, 1)


def norms(dy: Tensor) -> Tensor | None:
    """Each row's norm, as `energies` has their squares; the largest is `NORM_TOP`."""
    return _whole(dy, lambda parts: parts.sqrt() * NORM_TOP)


def energies(dy: Tensor) -> Tensor | None:
    """``(T,)`` int64: each row's squared norm beside the largest, which is `TOP`; at least 1 where it is above zero.

    Whole numbers, so that their sum is the same in whatever order; to the nearest, so that rows whose norms differ by the order
    in which they were summed are equal. None if a norm is not finite: then every token is active.
    """
    return _whole(dy, lambda parts: parts * TOP)


def _whole(dy: Tensor, scaled: Callable[[Tensor], Tensor]) -> Tensor | None:
    sums = squared_norms(dy)
    largest = sums.max() if len(sums) else sums.new_zeros(())
    if not bool(largest.isfinite()):
        return None
    if not bool(largest):
        return torch.zeros_like(sums, dtype=torch.int64)
    return (scaled(sums / largest) + 0.5).clamp(min=1).where(sums > 0, 0).long()


def squared_norms(dy: Tensor) -> Tensor:
    return dy.double().square().sum(1)


def input_grad(dy: Tensor, weight: Tensor, tokens: Tensor, count: Tensor) -> Tensor:
    wide, active = accumulator(dy.dtype), tokens[: int(count)]
    dx = dy.new_zeros(dy.shape[0], weight.shape[1])
    dx[active] = (dy[active].to(wide) @ weight.to(wide)).to(dy.dtype)
    return dx


def active_weight_grad(dy, x, index, layout, dtype, tokens, count):
    active = tokens[: int(count)]
    return weight_grad(dy[active], x[active], index, layout, dtype)
