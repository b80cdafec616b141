"""From scores to a Selection: spend a number of entries where it pays most."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..ops.layout import Layout
from ..selection import Entries, Selection
from ..structure import weights


def budget(
    scores: Mapping[str, Tensor], model: nn.Module, *, density: float, kind: str = "columns", per: str = "model"
) -> Selection:
    """The best-scored rows or columns within a share of all entries of the scored weights.

    Args:
        scores: weight name -> a score for each row or column, as `sensitivity` gives.
        model: the model that has these weights.
        density: share of entries to select, in (0, 1].
        kind: ``"rows"`` or ``"columns"``.
        per: ``"model"``: units compete by score per entry across all weights, best first, as many as fit the budget.
            ``"weight"``: each weight gives the same share of its units, at least one.

    Raises:
        ValueError: for arguments out of range, scores that do not fit the model, or a budget below one unit.
    """
    check_budget(density, kind, per)
    if not scores:
        raise ValueError("budget: scores must hold at least one weight's, got none")
    named = weights(model)
    layouts = {name: _layout(named, name, kind, score) for name, score in scores.items()}
    choice = _by_model(scores, layouts, density) if per == "model" else _by_weight(scores, density)
    return Selection(
        (name, Entries.of(kind, chosen.cpu(), (layouts[name].rows, layouts[name].columns)))
        for name, chosen in choice.items()
        if chosen.numel()
    )


def check_budget(density: float, kind: str, per: str) -> None:
    if not 0.0 < density <= 1.0:
        raise ValueError(f"budget: density must lie in (0, 1], got {density}")
    if kind not in ("rows", "columns"):
        raise ValueError(f"budget: kind must be 'rows' or 'columns', got {kind!r}")
    if per not in ("model", "weight"):
        raise ValueError(f"budget: per must be 'model' or 'weight', got {per!r}")


def _layout(named: Mapping[str, Tensor], name: str, kind: str, score: Tensor) -> Layout:
    if name not in named:
        raise ValueError(f"budget: scores must be named after the model's weights, got {name!r}")
    layout = Layout.of(kind, tuple(named[name].shape))
    if score.shape != (layout.units,):
        raise ValueError(
            f"budget: the scores of {name!r} must be of shape ({layout.units},) for {kind}, got {tuple(score.shape)}"
        )
    if not bool(score.isfinite().all()):
        raise ValueError(
            f"budget: the scores of {name!r} must be finite, got {int((~score.isfinite()).sum())} that are inf or NaN"
        )
    return layout


def _by_weight(scores: Mapping[str, Tensor], density: float) -> dict[str, Tensor]:
    return {name: _best_first(score)[: max(1, round(density * score.numel()))] for name, score in scores.items()}


def _by_model(scores: Mapping[str, Tensor], layouts: Mapping[str, Layout], density: float) -> dict[str, Tensor]:
    sizes = {name: layout.rows * layout.columns // layout.units for name, layout in layouts.items()}
    worth = torch.cat([score.cpu().double() / sizes[name] for name, score in scores.items()])
    cost = torch.cat([torch.full((score.numel(),), sizes[name]) for name, score in scores.items()])
    order = _best_first(worth)
    left = round(density * sum(layout.rows * layout.columns for layout in layouts.values()), 6)  # 0.29 * 100 is just below 29
    taken = torch.zeros_like(worth, dtype=torch.bool)
    for unit, entries in zip(order.tolist(), cost[order].tolist(), strict=True):
        if entries <= left:
            taken[unit] = True
            left -= entries
    if not taken.any():
        raise ValueError(f"budget: density must allow at least one unit of {int(cost.min())} entries, got {density}")
    parts = taken.split([score.numel() for score in scores.values()])
    return {name: part.nonzero().flatten() for name, part in zip(scores, parts, strict=True)}


def _best_first(scores: Tensor) -> Tensor:
    """Among equals the first one first, on every device."""
    return scores.argsort(descending=True, stable=True)
