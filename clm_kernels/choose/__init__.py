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
from .embedding import group_rows
from .entries import top_entries
from .positions import at_groups
from .sensitivity import eligible_weights, sensitivity
from .token_groups import TokenGroups, token_groups
from .warm_up import warm_up_head

__all__ = [
    "budget", "choose", "eligible_weights", "group_rows", "random_selection", "sensitivity", "token_groups", "top_entries",
    "warm_up_head",
]  # fmt: skip


def choose(
    model: nn.Module,
    tokenizer,
    dataset: Iterable[Mapping],
    *,
    density: float = 0.02,
    kind: str = "columns",
    layers: str = "all",
    per: str = "model",
    rule: str = "fisher",
    tokens: bool | TokenGroups = False,
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
        rule: how units are scored, see `sensitivity`.
        tokens: score them where the token groups stand: True counts the groups of all rows, which must have ``text`` and
            ``label``; or groups that have been counted already.
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
    rows = dataset if hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__") else list(dataset)
    groups = _groups(rows, tokenizer) if tokens is True else tokens or None
    batches = batches_of(model, tokenizer, rows, examples, batch_size, max_length, seed)
    named = weights(model)
    before = {name: named[name].detach().clone() for name in head_names(model)}
    try:
        warm_up_head(model, batches)
        positions = at_groups(groups) if groups is not None else None
        scores = sensitivity(model, batches, kind=kind, layers=layers, rule=rule, positions=positions, seed=seed)
    finally:
        with torch.no_grad():
            for name, tensor in before.items():
                named[name].copy_(tensor)
    return budget(scores, model, density=density, kind=kind, per=per)


def _groups(rows, tokenizer) -> TokenGroups:
    for row in rows:
        if "text" not in row or "label" not in row:
            raise ValueError(f"choose: dataset rows must have text and label where tokens is True, got {sorted(row)}")
    return token_groups(((row["text"], str(row["label"])) for row in rows), tokenizer)
