"""From scores to a Selection: spend a number of entries, or of FLOPs, where it pays most."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from ...models.structure import depths, matrix_shape, weights
from ...ops.layout import Layout
from ...selection import Selection
from ..scores.sensitivity import eligible_weights
from ..units.finding import Units, check_scores, single
from .cost import CostModel


def budget(
    scores: Mapping[str, Tensor],
    model: nn.Module,
    *,
    density: float | None = None,
    entries: int | None = None,
    backward: float | None = None,
    kind: str = "columns",
    per: str = "model",
    units: Units | None = None,
    batch: int = 32,
    length: int = 128,
    biases: bool = False,
    norms: bool = False,
) -> Selection:
    """The best-scored units within a share of all entries, a number of them, or a share of full fine-tuning's backward.

    By `backward`, depth is traded for width: the lowest place that is trained fixes what the input gradients cost, and what is
    left buys weight gradients at or above it; of all such places the one is taken whose units score most together. Units
    are bought best first, by score for what they cost, whatever still fits: as good as any choice where all cost the same;
    else below the best by less than one unit's score, where that is the only bound.

    Args:
        scores: weight name -> a score for each row or column, as `sensitivity` gives; with `units`, of `units.kinds`.
        model: the model that has these weights.
        density: share of the units' entries to select, in (0, 1]; beside `backward` a further bound.
        entries: how many entries to select; beside `backward` a further bound.
        backward: share of full fine-tuning's backward FLOPs, input and weight gradients, that training may take, in (0, 1].
        kind: ``"rows"`` or ``"columns"``; of no meaning with `units`.
        per: ``"model"``: units compete by score per entry across all weights, best first, as many as fit the budget.
            ``"layer"``: so within each layer, each with the same share of its entries, at least one unit. ``"weight"``:
            each weight gives the same share of its units, at least one. With `backward` ``"model"`` or ``"weight"``: of all
            weights that may then be trained.
        units: what is bought, from `find_units`; each row or column of the scored weights by default.
        batch: texts in a batch, for `backward`.
        length: tokens a text, padding included, for `backward`.
        biases: whether `patch` will train the biases too, for `backward`.
        norms: whether it will train the normalisation weights, for `backward`.

    Raises:
        ValueError: for arguments out of range, scores that do not fit the model, or a budget below one unit.
    """
    check_budget(density, kind, per, entries=entries, backward=backward, coupled=units is not None)
    if not scores:
        raise ValueError("budget: scores must hold at least one weight's, got none")
    units = _single(scores, model, kind) if units is None else _fitting(units, model)
    score, sizes = units.scores(scores), units.entries
    total = sizes.sum().item()
    if density is not None:
        share, most = density, round(density * total, 6)  # 0.29 * 100 is just below 29
    else:
        most = total if entries is None else entries
        share = most / total
    if backward is not None:
        model_cost = CostModel(model, batch, length)
        chosen = _by_cost(units, score, sizes, most, backward, model_cost, per, biases=biases, norms=norms)
    elif per == "weight":
        best = (_best_first(score[part.span])[: max(1, round(share * part.layout.units))] + part.first for part in units.values())
        chosen = torch.cat(list(best))
    elif per == "layer":
        chosen = _by_layer(units.least(depths(model)), score / sizes, sizes, share)
    else:
        chosen = _within(_best_first(score / sizes), (sizes, most))
    if not chosen.numel():
        name, value = ("entries", entries) if density is None else ("density", density)
        raise ValueError(f"budget: {name} must allow at least one unit of {int(sizes.min())} entries, got {value}")
    taken = torch.zeros(units.count, dtype=torch.bool)
    taken[chosen] = True
    return units.select(taken)


def affordable(
    model: nn.Module, kind: str, layers: str, backward: float, batch: int, length: int, biases: bool, norms: bool
) -> tuple[dict[str, str], int]:
    """The kind for each weight of which `backward` admits at least one row or column, and the entries of all that are eligible.

    No choice within it holds any other weight's units, so they need no score; where it admits none, all are named.
    """
    priced, kinds = CostModel(model, batch, length), {}
    eligible = {name: matrix_shape(module) for name, module in eligible_weights(model, layers).items()}
    for name, shape in eligible.items():
        lowest = priced.reach(priced.place(name), priced.depth(name), biases, norms)
        unit = priced.per_entry(name) * math.prod(shape) / Layout.of(kind, shape).units
        if priced.input_gradients(lowest) + priced.of_head() + unit <= round(backward * priced.full.backward):
            kinds[name] = kind
    return kinds or dict.fromkeys(eligible, kind), sum(map(math.prod, eligible.values()))


def check_budget(
    density: float | None,
    kind: str,
    per: str,
    *,
    entries: int | None = None,
    backward: float | None = None,
    coupled: bool = False,
) -> None:
    """Raises ValueError for what can be told without scores."""
    if density is not None and not 0.0 < density <= 1.0:
        raise ValueError(f"budget: density must lie in (0, 1], got {density}")
    if entries is not None and entries < 1:
        raise ValueError(f"budget: entries must be at least 1, got {entries}")
    if backward is not None and not 0.0 < backward <= 1.0:
        raise ValueError(f"budget: backward must lie in (0, 1], got {backward}")
    if density is entries is backward is None:
        raise ValueError("budget: one of density, entries and backward must be given, got none")
    if density is not None and entries is not None:
        raise ValueError(f"budget: density or entries must be given, got both {density} and {entries}")
    if kind not in ("rows", "columns"):
        raise ValueError(f"budget: kind must be 'rows' or 'columns', got {kind!r}")
    if per not in ("model", "layer", "weight"):
        raise ValueError(f"budget: per must be 'model', 'layer' or 'weight', got {per!r}")
    if per == "layer" and backward is not None:
        raise ValueError("budget: per must be 'model' or 'weight' with backward, got 'layer'")
    if per == "weight" and coupled:
        raise ValueError("budget: per must be 'model' or 'layer' with units, got 'weight'")


def _single(scores: Mapping[str, Tensor], model: nn.Module, kind: str) -> Units:
    shapes = {}
    for name, score in scores.items():
        shapes[name] = _shape(model, name, "scores")
        check_scores(name, score, kind, Layout.of(kind, shapes[name]).units)
    return single(shapes, kind)


def _fitting(units: Units, model: nn.Module) -> Units:
    for name, part in units.items():
        if (shape := _shape(model, name, "units")) != part.described[1]:
            raise ValueError(f"budget: the units of {name!r} must be of its shape {shape}, got {part.described[1]}")
    return units


def _shape(model: nn.Module, name: str, argument: str) -> tuple[int, int]:
    named = weights(model)
    if name not in named:
        raise ValueError(f"budget: {argument} must be named after the model's weights, got {name!r}")
    return cast("tuple[int, int]", tuple(named[name].shape))


def _by_layer(depth: Tensor, worth: Tensor, sizes: Tensor, share: float) -> Tensor:
    chosen = []
    for one in depth.unique():
        order = _best_first(worth.where(depth == one, -math.inf))[: int((depth == one).sum())]
        fitting = _within(order, (sizes, round(share * sizes[order].sum().item(), 6)))
        chosen.append(fitting if fitting.numel() else order[:1])
    return torch.cat(chosen)


def _by_cost(
    units: Units, score: Tensor, sizes: Tensor, most: float, share: float, model: CostModel, per: str, **whole: bool
) -> Tensor:
    place = units.least({name: model.place(name) for name in units})
    depth = units.least({name: model.depth(name) for name in units})
    flops = units.sum({name: model.per_entry(name) * part.entries for name, part in units.items()})
    affordable, best, chosen = sizes <= most, -math.inf, sizes.new_empty(0, dtype=torch.long)
    smallest = math.inf
    for lowest in place[affordable].unique().flip(0).tolist():  # among equals the cheapest backward
        above = affordable & (place >= lowest)
        fixed = model.input_gradients(model.reach(lowest, depth[above].min().item(), **whole)) + model.of_head()
        smallest = min(smallest, fixed + flops[above].min().item())
        left = round(share * model.full.backward - fixed)  # FLOPs are whole
        if left < flops[above].min():
            continue
        bought = _spread(units, score, above, (flops, left), (sizes, most)) if per == "weight" else above.new_empty(0)
        if not bought.numel():
            price = flops / max(1, left) + (sizes / most if most < sizes.sum() else 0)
            worth = score / price.clamp(min=torch.finfo(price.dtype).tiny)  # embedding rows may cost nothing
            order = _best_first(worth.where(above, -math.inf))[: int(above.sum())]
            bought = _within(order, (flops, left), (sizes, most))
        if score[bought].sum() > best:
            best, chosen = score[bought].sum().item(), bought
    if not chosen.numel() and smallest < math.inf:
        least = math.ceil(smallest / model.full.backward * 1e4) / 1e4
        raise ValueError(f"budget: backward must be at least {least:.4f} to admit one unit, got {share}")
    return chosen


def _spread(units: Units, score: Tensor, above: Tensor, *bounds: tuple[Tensor, float]) -> Tensor:
    """The best units of each weight that is `above`, of all the same share: the largest that fits all (sizes, most)."""
    share = min(1.0, *(most / max(1, sizes[above].sum().item()) for sizes, most in bounds))
    allowed = [part for part in units.values() if above[part.first]]
    return torch.cat([_best_first(score[part.span])[: int(share * part.layout.units + 1e-9)] + part.first for part in allowed])


def _within(order: Tensor, *bounds: tuple[Tensor, float]) -> Tensor:
    """Of `order`, whatever still fits all (sizes, most), one after the other."""
    taken = [order[:0]]
    left = [most for _, most in bounds]
    while order.numel():
        used = [sizes[order].cumsum(0) for sizes, _ in bounds]
        count = min(int(torch.searchsorted(u, most, right=True)) for u, most in zip(used, left, strict=True))
        taken.append(order[:count])
        if count:
            left = [most - u[count - 1].item() for u, most in zip(used, left, strict=True)]
        order = order[count:]
        for (sizes, _), most in zip(bounds, left, strict=True):
            order = order[sizes[order] <= most]  # what does not fit now never will
    return torch.cat(taken)


def _best_first(scores: Tensor) -> Tensor:
    """Among equals the first one first, on every device."""
    return scores.argsort(descending=True, stable=True)
