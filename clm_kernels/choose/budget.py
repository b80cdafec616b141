"""From scores to a Selection: spend a number of entries where it pays most."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..ops.layout import Layout
from ..selection import Entries, Selection
from ..structure import weights


def budget(scores: Mapping[str, Tensor], model: nn.Module, *, density: float, kind: str = "columns", per: str = "model") -> Selection:
    """The best-scored rows or columns within a share of all entries of the scored weights.

    Args:
        scores: weight name -> a score for each row or column, as `sensitivity` gives.
        model: the model that has these weights.
        density: share of entries to select, in (0, 1].
        kind: ``"rows"`` or ``"columns"``.
        per: ``"model"``: units compete by score per entry across all weights, as many as fit the budget.
            ``"weight"``: each weight gives the same share of its units, at least one.

    Raises:
        ValueError: for a density out of range, scores that do not fit the model, or a budget below one unit.
    """
    if not 0.0 < density <= 1.0:
        raise ValueError(f"budget: density must lie in (0, 1], got {density}")
    if per not in ("model", "weight"):
        raise ValueError(f"budget: per must be 'model' or 'weight', got {per!r}")
    named = weights(model)
    layouts = {name: _layout(named, name, kind, score) for name, score in scores.items()}
    choice = _by_model(scores, layouts, density) if per == "model" else _by_weight(scores, density)
    return Selection(
        (name, Entries.of(kind, chosen.cpu(), (layouts[name].rows, layouts[name].columns))) for name, chosen in choice.items() if chosen.numel()
    )


def _layout(named: Mapping[str, Tensor], name: str, kind: str, score: Tensor) -> Layout:
    if name not in named:
        raise ValueError(f"budget: scores must be named after the model's weights, got {name!r}")
    layout = Layout.of(kind, tuple(named[name].shape))
    if score.shape != (layout.units,):
        raise ValueError(f"budget: the scores of {name!r} must be of shape ({layout.units},) for {kind}, got {tuple(score.shape)}")
    return layout


def _by_weight(scores: Mapping[str, Tensor], density: float) -> dict[str, Tensor]:
    return {name: score.topk(max(1, round(density * score.numel()))).indices for name, score in scores.items()}


def _by_model(scores: Mapping[str, Tensor], layouts: Mapping[str, Layout], density: float) -> dict[str, Tensor]:
    sizes = {name: layout.rows * layout.columns // layout.units for name, layout in layouts.items()}
    worth = torch.cat([score.double().cpu() / sizes[name] for name, score in scores.items()])
    cost = torch.cat([torch.full((score.numel(),), sizes[name]) for name, score in scores.items()])
    allowed = density * sum(layout.rows * layout.columns for layout in layouts.values())
    order = worth.argsort(descending=True, stable=True)
    taken = torch.zeros_like(worth, dtype=torch.bool)
    taken[order] = cost[order].cumsum(0) <= allowed
    if not taken.any():
        raise ValueError(f"budget: density must allow at least one unit of {int(cost.min())} entries, got {density}")
    parts = taken.split([score.numel() for score in scores.values()])
    return {name: part.nonzero().flatten() for name, part in zip(scores, parts, strict=True)}
