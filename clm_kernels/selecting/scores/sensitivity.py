"""How much the loss depends on each row, column or block of each weight: the diagonal empirical Fisher.

A unit's score is the squared norm of its gradient, summed over the examples; of rows and columns it is had without that
gradient (`ops.sensitivity`), of blocks from one example's gradient of one weight at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from ...defaults import BLOCK
from ...models.linear import is_linear
from ...models.structure import depths, head_names, input_embedding, matrix_shape, number_of_layers
from ...selection import Entries
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
        if is_linear(module) and name not in head and lowest <= depth.get(name, -1) < math.inf:
            found[name] = module
    if not found:
        raise ValueError(f"choose: the model must have linear weights in numbered layers, got none in {type(model).__name__}")
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
    block: tuple[int, int] = (BLOCK, BLOCK),
) -> dict[str, Tensor]:
    """Scores of the rows, columns or blocks (of the stored tensor) of every eligible weight, summed over all examples.

    An example's loss is that of its label, or the sum over its tokens' labels. One forward and one backward pass
    without dropout and without a single weight gradient, blocks aside. Warm up the head first (`warm_up_head`): gradients through
    a random head say little.

    Args:
        model: a transformers classifier; left as it was.
        batches: with ``labels``, on the model's device; not read by the rules magnitude and random.
        kind: ``"rows"``, ``"columns"`` or ``"blocks"``, or one of them for each weight that is to be scored, by name; so the
            input embedding can be scored too, by ``"rows"``.
        layers: ``"all"``, ``"upper half"`` or ``"upper third"``.
        rule: ``"fisher"`` (the unit's squared gradient), ``"saliency"`` (what its removal would change, to first order),
            ``"magnitude"`` (its own squared norm) or ``"random"``.
        positions: which tokens count, for fisher and saliency; all by default. See `choose.positions`.
        seed: of the rule random.
        block: height and width, for blocks.

    Returns:
        Weight name -> 1-D scores.

    Raises:
        ValueError: for a rule, kind or layers that there is not, weights that are not eligible or that the blocks do not
            divide, or an input embedding that something else reads too.
    """
    if rule not in (*RULES, "magnitude", "random"):
        raise ValueError(f"sensitivity: rule must be one of {', '.join(RULES)}, magnitude, random, got {rule!r}")
    if positions is not None and rule not in RULES:
        raise ValueError(f"sensitivity: positions must be left out with the rule {rule!r}, which reads no text, got {positions}")
    eligible = eligible_weights(model, layers)
    kinds = kind if isinstance(kind, Mapping) else dict.fromkeys(eligible, kind)
    if set(kinds) - set(eligible):
        eligible = _embedding(model, kinds) | eligible
    if unknown := [name for name in kinds if name not in eligible]:
        raise ValueError(f"sensitivity: kind must be of weights in the model's layers, got {unknown[0]!r}")
    if bad := [own for own in kinds.values() if own not in ("rows", "columns", "blocks")]:
        raise ValueError(f"sensitivity: kind must be rows, columns or blocks, got {bad[0]!r}")
    for name in (name for name, own in kinds.items() if own == "blocks"):
        Entries.of("blocks", [], matrix_shape(eligible[name]), block)  # which the blocks must divide
    scored = {name: module for name, module in eligible.items() if name in kinds}
    if rule == "magnitude":
        return {name: magnitude(module, kinds[name], block) for name, module in scored.items()}
    if rule == "random":
        generator = torch.Generator().manual_seed(seed)
        return {name: chance(module, kinds[name], generator, block) for name, module in scored.items()}
    scores: dict[str, Tensor] = {}

    def add(name: str, module: nn.Module, x: Tensor, dy: Tensor, weights: Tensor | None) -> None:
        score = RULES[rule](module, x, dy, kinds[name], weights, block)
        scores[name] = scores[name] + score if name in scores else score

    score_pass(model, batches, scored, add, positions)
    return {name: scores[name] for name in scored if name in scores}


def _embedding(model: nn.Module, kinds: Mapping[str, str]) -> dict[str, nn.Module]:
    """The input embedding by its weight's name, where that is one of `kinds`; nothing else may read the weight."""
    name, module = input_embedding(model)
    if name not in kinds:
        return {}
    if kinds[name] != "rows":
        raise ValueError(f"sensitivity: kind must be rows for the input embedding, got {kinds[name]!r}")
    readers = (prefix for prefix, other in model.named_modules() if getattr(other, "weight", None) is module.weight)
    if others := [prefix for prefix in readers if model.get_submodule(prefix) is not module]:
        raise ValueError(f"sensitivity: the input embedding must be read by nothing else, got one tied to {others[0]!r}")
    return {name: module}


Add = Callable[[str, nn.Module, Tensor, Tensor, Tensor | None], None]


def score_pass(
    model: nn.Module,
    batches: Iterable[Mapping[str, Tensor]],
    modules: Mapping[str, nn.Module],
    add: Add,
    positions: Positions | None = None,
) -> None:
    """Calls ``add(name, module, x, dy, weights)`` for every one of `modules` and every batch.

    x ``(B, T, in)`` is its input (of an embedding the ids, ``(B, T, 1)``), dy ``(B, T, out)`` the gradient of its output
    from each example's own loss, weights ``(B, T)`` those of the positions. No gradient of a weight is made.
    """
    weights: list[Tensor | None] = [None]  # of the batch that is being passed

    def hook(name: str) -> Callable[..., None]:
        def forward_hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            output.requires_grad_()  # the lowest ones have no gradient to hand on: the backward pass ends there
            x = args[0].detach() if args[0].is_floating_point() else args[0][..., None]
            output.register_hook(lambda dy: given(name, module, x, dy))

        return forward_hook

    def given(name: str, module: nn.Module, x: Tensor, dy: Tensor) -> None:
        x = x.to(dy.dtype) if x.is_floating_point() else x  # as autocast gave x to the product
        batch = x.shape[0] if x.dim() == 3 else 1
        x, dy = (part.reshape(batch, -1, part.shape[-1]) for part in (x, dy))
        add(name, module, x, dy, None if weights[0] is None else weights[0].reshape(x.shape[:2]))

    with frozen(model), torch.enable_grad():
        hooks = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
        try:
            for batch in batches:
                weights[0] = None if positions is None else positions(batch)
                labelled = (batch["labels"] != -100).sum()  # examples, or tokens: the loss is their mean
                (model(**batch).loss * labelled).backward()
        finally:
            for each in hooks:
                each.remove()
