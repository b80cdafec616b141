"""How much the loss depends on each row or column of each weight: the diagonal empirical Fisher, without a gradient.

For one example with T tokens the gradient of a linear weight is ``G = dy.T @ x``. A row's score is its squared norm,
``diag(dy.T (x x.T) dy)``, a column's ``diag(x.T (dy dy.T) x)``: through T x T Gram matrices, G itself is never built.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from ..structure import depths, head_names, number_of_layers
from .frozen import frozen

LAYERS = {"all": 0.0, "upper half": 1 / 2, "upper third": 2 / 3}


def unit_sensitivity(dy: Tensor, x: Tensor, kind: str, positions: Tensor | None = None) -> Tensor:
    """Squared norms of the rows or columns of each example's weight gradient, summed over the examples.

    Args:
        dy: ``(B, T, out)``, gradient of each example's own loss.
        x: ``(B, T, in)``.
        kind: ``"rows"`` (dim 0 of ``dy.T @ x``) or ``"columns"``.
        positions: ``(B, T)`` weights of the positions; all 1 by default.

    Returns:
        ``(out,)`` for rows, ``(in,)`` for columns, float32 (float64 for float64).
    """
    if kind not in ("rows", "columns"):
        raise ValueError(f"sensitivity: kind must be rows or columns, got {kind!r}")
    wide = torch.float64 if dy.dtype == torch.float64 else torch.float32
    units, others = (dy.to(wide), x.to(wide)) if kind == "rows" else (x.to(wide), dy.to(wide))
    if positions is not None:
        others = others * positions[..., None].to(wide)
    gram = others @ others.transpose(1, 2)  # (B, T, T)
    return ((gram @ units) * units).sum((0, 1))


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
            first, second = (x, dy) if stored_transposed else (dy, x)
            batch = first.shape[0] if first.dim() == 3 else 1
            parts = [part.reshape(batch, -1, part.shape[-1]) for part in (first, second)]
            score = unit_sensitivity(*parts, kind)
            scores[name] = scores[name] + score if name in scores else score

        output.register_hook(backward_hook)

    return forward_hook
