"""How much the loss depends on each row or column of each weight: the diagonal empirical Fisher, without a gradient.

A row's or column's score is the squared norm of its gradient, summed over the examples: `ops.sensitivity`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from ..structure import depths, head_names, number_of_layers
from .frozen import frozen
from .positions import Positions
from .rules import RULES, chance, magnitude

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
    model: nn.Module,
    batches: Iterable[Mapping[str, Tensor]],
    *,
    kind: str | Mapping[str, str] = "columns",
    layers: str = "all",
    rule: str = "fisher",
    positions: Positions | None = None,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Scores of the rows or columns (of the stored tensor) of every eligible weight, summed over all examples.

    An example's loss is that of its label, or the sum over its tokens' labels. One forward and one backward pass
    without dropout and without a single weight gradient. Warm up the head first (`warm_up_head`): gradients through
    a random head say little.

    Args:
        model: a transformers classifier; left as it was.
        batches: with ``labels``, on the model's device; not read by the rules magnitude and random.
        kind: ``"rows"`` or ``"columns"``, or one of them for each weight that is to be scored, by name.
        layers: ``"all"``, ``"upper half"`` or ``"upper third"``.
        rule: ``"fisher"`` (the unit's squared gradient), ``"saliency"`` (what its removal would change, to first order),
            ``"magnitude"`` (its own squared norm) or ``"random"``.
        positions: which tokens count, for fisher and saliency; all by default. See `choose.positions`.
        seed: of the rule random.

    Returns:
        Weight name -> 1-D scores.

    Raises:
        ValueError: for a rule, kind or layers that there is not, or weights that are not eligible.
    """
    if rule not in (*RULES, "magnitude", "random"):
        raise ValueError(f"sensitivity: rule must be one of {', '.join(RULES)}, magnitude, random, got {rule!r}")
    if positions is not None and rule not in RULES:
        raise ValueError(f"sensitivity: positions must be left out with the rule {rule!r}, which reads no text, got {positions}")
    eligible = eligible_weights(model, layers)
    kinds = kind if isinstance(kind, Mapping) else dict.fromkeys(eligible, kind)
    if unknown := [name for name in kinds if name not in eligible]:
        raise ValueError(f"sensitivity: kind must be of weights in the model's layers, got {unknown[0]!r}")
    if bad := [own for own in kinds.values() if own not in ("rows", "columns")]:
        raise ValueError(f"sensitivity: kind must be rows or columns, got {bad[0]!r}")
    scored = {name: module for name, module in eligible.items() if name in kinds}
    if rule == "magnitude":
        return {name: magnitude(module, kinds[name]) for name, module in scored.items()}
    if rule == "random":
        generator = torch.Generator().manual_seed(seed)
        return {name: chance(module, kinds[name], generator) for name, module in scored.items()}
    scores: dict[str, Tensor] = {}

    def add(name: str, module: nn.Module, x: Tensor, dy: Tensor, weights: Tensor | None) -> None:
        score = RULES[rule](module, x, dy, kinds[name], weights)
        scores[name] = scores[name] + score if name in scores else score

    score_pass(model, batches, scored, add, positions)
    return {name: scores[name] for name in scored if name in scores}


Add = Callable[[str, nn.Module, Tensor, Tensor, Tensor | None], None]


def score_pass(
    model: nn.Module,
    batches: Iterable[Mapping[str, Tensor]],
    modules: Mapping[str, nn.Module],
    add: Add,
    positions: Positions | None = None,
) -> None:
    """Calls ``add(name, module, x, dy, weights)`` for every one of `modules` and every batch.

    x ``(B, T, in)`` is its input, dy ``(B, T, out)`` the gradient of its output from each example's own loss, weights
    ``(B, T)`` those of the positions. No gradient of a weight is made.
    """
    weights: list[Tensor | None] = [None]  # of the batch that is being passed

    def hook(name: str):
        def forward_hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            if output.requires_grad:
                x = args[0].detach()
                output.register_hook(lambda dy: given(name, module, x.to(dy.dtype), dy))  # as autocast gave x to the product

        return forward_hook

    def given(name: str, module: nn.Module, x: Tensor, dy: Tensor) -> None:
        batch = x.shape[0] if x.dim() == 3 else 1
        x, dy = (part.reshape(batch, -1, part.shape[-1]) for part in (x, dy))
        add(name, module, x, dy, None if weights[0] is None else weights[0].reshape(x.shape[:2]))

    with frozen(model), torch.enable_grad():
        hooks = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
        try:
            hooks.append(model.get_input_embeddings().register_forward_hook(lambda module, args, output: output.requires_grad_()))
            for batch in batches:
                weights[0] = None if positions is None else positions(batch)
                labelled = (batch["labels"] != -100).sum()  # examples, or tokens: the loss is their mean
                (model(**batch).loss * labelled).backward()
        finally:
            for each in hooks:
                each.remove()
