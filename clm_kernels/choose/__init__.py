"""From a labelled dataset and a model to a Selection: warm up the head, score rows or columns, spend a budget."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from ..selection import Selection
from ..structure import head_names, weights
from .batches import batches_of
from .budget import budget, check_budget
from .control import random_selection
from .cost import CostModel, step_cost
from .overview import overview
from .sensitivity import eligible_weights, sensitivity
from .units import Units, find_units
from .warm_up import warm_up_head

__all__ = [
    "CostModel",
    "Units",
    "budget",
    "choose",
    "eligible_weights",
    "find_units",
    "overview",
    "random_selection",
    "sensitivity",
    "step_cost",
    "warm_up_head",
]


def choose(
    model: nn.Module,
    tokenizer,
    dataset: Iterable[Mapping],
    *,
    density: float = 0.02,
    kind: str = "columns",
    layers: str = "all",
    per: str = "model",
    examples: int = 512,
    batch_size: int = 32,
    max_length: int = 128,
    seed: int = 0,
) -> Selection:
    """The rows or columns on which the loss of this model depends most on this dataset.

    A short training of the head on `examples` examples, then `sensitivity` over the same ones, then `budget`. The
    model is left as it was, its head included.

    Args:
        model: a transformers classifier, on the device where it is to run.
        tokenizer: its tokenizer.
        dataset: rows with ``text`` and ``label`` (an id, or a name in the model's config), or tokenised rows with
            ``input_ids`` and ``labels``.
        density: share of the eligible weights' entries to select, in (0, 1].
        kind: ``"rows"`` or ``"columns"``.
        layers: which layers' weights are eligible: ``"all"``, ``"upper half"`` or ``"upper third"``.
        per: ``"model"`` spends the budget where it pays most, ``"weight"`` spends the same share in each weight.
        examples: how many examples, drawn with `seed`.
        batch_size: examples a forward and backward pass.
        max_length: tokens a text, longer ones are cut.
        seed: of the draw.

    Raises:
        ValueError: for arguments out of range or rows that lack what is needed.
    """
    check_budget(density, kind, per)
    eligible_weights(model, layers)
    batches = batches_of(model, tokenizer, dataset, examples, batch_size, max_length, seed)
    named = weights(model)
    before = {name: named[name].detach().clone() for name in head_names(model)}
    try:
        warm_up_head(model, batches)
        scores = sensitivity(model, batches, kind=kind, layers=layers)
    finally:
        with torch.no_grad():
            for name, tensor in before.items():
                named[name].copy_(tensor)
    return budget(scores, model, density=density, kind=kind, per=per)
