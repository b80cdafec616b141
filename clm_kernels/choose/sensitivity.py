"""How much the loss depends on each row or column of each weight: the diagonal empirical Fisher, without a gradient.

A row's or column's score is the squared norm of its gradient, summed over the examples: `ops.sensitivity`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from .. import ops
from ..structure import depths, head_names, number_of_layers
from .frozen import frozen

LAYERS = {"all": 0.0, "upper half": 1 / 2, "upper third": 2 / 3}


def eligible_weights(model: nn.Module, layers: str = "all") -> dict[str, nn.Module]:
    """Linear weights inside the model's layers, by name: neither embeddings nor the head.

    Raises:
        ValueError: if `layers` is none of ``"all"``, ``"upper half"``, ``"upper third"``, or the model has none.
    """
    if layers not in LAYERS:
        raise ValueError(f"choose: layers must be one of {', '.join(map(repr, LAYERS))}, got {layers!r}")
    depth, head = depths(model), set(head_names(model))
    lowest = math.ceil(number_of_layers(model) * LAYERS[layers])
    found = {}
    for prefix, module in model.named_modules():
        name = f"{prefix}.weight"
        linear = isinstance(module, nn.Linear) or type(module).__name__.endswith("Conv1D")
        if linear and name not in head and lowest <= depth.get(name, -1) < math.inf:
            found[name] = module
    if not found:
        raise ValueError("choose: the model must have linear weights in numbered layers, got none")
    return found


def sensitivity(
    model: nn.Module, batches: Iterable[Mapping[str, Tensor]], *, kind: str = "columns", layers: str = "all"
) -> dict[str, Tensor]:
    """Scores of the rows or columns (of the stored tensor) of every eligible weight, summed over all examples.

    An example's loss is that of its label, or the sum over its tokens' labels. One forward and one backward pass
    without dropout and without a single weight gradient. Warm up the head first (`warm_up_head`): gradients through
    a random head say little.

    Args:
        model: a transformers classifier; left as it was.
        batches: with ``labels``, on the model's device.
        kind: ``"rows"`` or ``"columns"``.
        layers: ``"all"``, ``"upper half"`` or ``"upper third"``.

    Returns:
        Weight name -> 1-D scores.
    """
    scores: dict[str, Tensor] = {}
    eligible = eligible_weights(model, layers)
    hooks = []
    with frozen(model), torch.enable_grad():
        try:
            hooks += (module.register_forward_hook(_score_into(scores, name, kind)) for name, module in eligible.items())
            hooks.append(model.get_input_embeddings().register_forward_hook(lambda module, args, output: output.requires_grad_()))
            for batch in batches:
                labelled = (batch["labels"] != -100).sum()  # examples, or tokens: the loss is their mean
                (model(**batch).loss * labelled).backward()
        finally:
            for hook in hooks:
                hook.remove()
    return {name: scores[name] for name in eligible if name in scores}


def _score_into(scores: dict[str, Tensor], name: str, kind: str):
    def forward_hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        if not output.requires_grad:
            return
        x = args[0].detach()
        stored_transposed = not isinstance(module, nn.Linear)  # Conv1D: (in, out)

        def backward_hook(dy: Tensor) -> None:
            given = x.to(dy.dtype)  # as autocast gave it to the product
            first, second = (given, dy) if stored_transposed else (dy, given)
            batch = first.shape[0] if first.dim() == 3 else 1
            parts = [part.reshape(batch, -1, part.shape[-1]) for part in (first, second)]
            score = ops.sensitivity(*parts, kind)
            scores[name] = scores[name] + score if name in scores else score

        output.register_hook(backward_hook)

    return forward_hook
