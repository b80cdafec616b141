"""From a labelled dataset and a model to a Selection: warm up the head, score units, spend a budget."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..defaults import BATCH_SIZE, BLOCK, DENSITY, EXAMPLES, MAX_LENGTH, SEED
from ..models.structure import head_names, weights
from ..selection import Selection
from ..token_groups import TokenGroups, token_groups
from .batches import batches_of, mean_size
from .budget.spending import affordable, budget, check_budget
from .config import Select
from .scores.positions import Positions, at_groups
from .scores.sensitivity import eligible_weights, sensitivity
from .scores.warm_up import warm_up_head
from .units.control import random_selection
from .units.dealing import dealt_groups
from .units.elements import top_entries
from .units.finding import Units, find_units


class Choice(NamedTuple):
    """A Selection, and the scores that it was bought by: weight name -> a score for each row, column or block."""

    selection: Selection
    scores: dict[str, Tensor]


LINES = ("rows", "columns")
CHANCE = {"elements": ("fisher", "random"), "groups": ("random",)}  # kinds that can be drawn unscored -> their rules


def choose(
    model: nn.Module,
    tokenizer: Any,
    dataset: Iterable[Mapping],
    *,
    density: float | None = None,
    kind: str = "auto",
    layers: str = "all",
    per: str = "auto",
    backward: float | None = None,
    rule: str = "auto",
    tokens: bool | TokenGroups = False,
    examples: int = EXAMPLES,
    batch_size: int = BATCH_SIZE,
    max_length: int = MAX_LENGTH,
    seed: int = SEED,
    block: tuple[int, int] = (BLOCK, BLOCK),
) -> Selection:
    """The rows, columns or other units on which the loss of this model depends most on this dataset.

    A short training of the head on `examples` examples, then `sensitivity` over the same ones, then `budget`. The
    model is left as it was, its head included.

    Args:
        model: a transformers classifier, on the device where it is to run.
        tokenizer: its tokenizer.
        dataset: rows with ``text`` and ``label`` (an id, or a name in the model's config), or tokenised rows with
            ``input_ids`` and ``labels``. Of a model whose ``problem_type`` is multi_label_classification: rows with ``text`` and a
            list of names, ``labels``, or tokenised ones whose ``labels`` are a 0 or a 1 for each label.
        density: share of the units' entries to select, in (0, 1]; by default 1/8 of groups, else 0.02.
        kind: ``"auto"``: groups, or columns where `rule`, `tokens`, `backward` or `per` asks for a score, as `train` has it. Else ``"rows"``, ``"columns"``, ``"blocks"``, coupled ``"heads"`` or ``"neurons"``, ``"embeddings"``, or several that
            share no weight, as ``"heads+neurons"`` and ``"columns+embeddings"``; see `find_units`. Or single
            ``"elements"``, by `top_entries` or at random: with the rule fisher or random, no `backward`, and `per` model. Or whole
            ``"layers"``. Or ``"groups"`` of strips, dealt by `seed` alone, see `dealt_groups`: nothing is scored.
        layers: which layers' weights are eligible: ``"all"``, ``"upper half"`` or ``"upper third"``.
        backward: share of full fine-tuning's backward FLOPs that a step may take besides, in (0, 1]; see `budget`.
        rule: how units are scored, see `sensitivity`; ``"auto"``: fisher, of groups random, the only one that they take.
        tokens: score them where the token groups stand: True counts the groups of all rows, which must have ``text`` and
            ``label``; or groups that have been counted already.
        per: ``"model"`` spends the budget where it pays most, ``"weight"`` spends the same share in each weight; ``"auto"``:
            by weight for rows and columns, by model for all else.
        examples: how many examples, drawn with `seed`.
        batch_size: examples a forward and backward pass.
        max_length: tokens a text, longer ones are cut.
        seed: of the draw.
        block: height and width, for blocks.

    Raises:
        ValueError: for arguments out of range or rows that lack what is needed.
    """
    scored_by = rule if tokens is False else "tokens"
    size = BLOCK if block == (BLOCK, BLOCK) else 1
    asked = Select(scored_by, density, backward, kind, size, layers, per).resolved()
    density, kind, rule = asked.share, asked.kind, "random" if asked.select == "random" else rule
    check_units(model, kind, density=density, backward=backward, per=per, rule=rule, layers=layers, block=block)
    if kind == "groups":
        if tokens is not False:
            raise ValueError("choose: tokens must be False for groups, which are dealt by chance")
        return dealt_groups(model, density=density, layers=layers, seed=seed)
    rows = dataset if hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__") else list(dataset)
    groups = _groups(rows, tokenizer) if tokens is True else None if tokens is False else tokens
    if groups is not None and len(groups) == 0:
        raise ValueError("choose: tokens must be groups that say something of the labels, got none")
    batches = batches_of(model, tokenizer, rows, examples, batch_size, max_length, seed)
    named = weights(model)
    before = {name: named[name].detach().clone() for name in head_names(model)}
    try:
        warm_up_head(model, batches)
        positions = at_groups(groups) if groups is not None else None
        return best_units(
            model, batches, density=density, backward=backward, kind=kind, layers=layers, per=per, rule=rule, positions=positions,
            seed=seed, block=block,
        ).selection  # fmt: skip
    finally:
        with torch.no_grad():
            for name, tensor in before.items():
                named[name].copy_(tensor)


def best_units(
    model: nn.Module,
    batches: Sequence[Mapping[str, Tensor]],
    *,
    density: float = DENSITY,
    backward: float | None = None,
    kind: str = "columns",
    layers: str = "all",
    per: str = "auto",
    rule: str = "auto",
    positions: Positions | None = None,
    seed: int = 0,
    biases: bool = False,
    norms: bool = False,
    block: tuple[int, int] = (BLOCK, BLOCK),
) -> Choice:
    """Scores the units of a model whose head is warmed up, and spends a budget on the best: `sensitivity`, then `budget`.

    Args:
        batches: also say how large a batch is, for `backward`: the mean of theirs.
        kind, rule: as `choose` takes them; all else as `sensitivity` and `budget` do. Of elements and groups no scores are kept.
    """
    check_units(model, kind, density=density, backward=backward, per=per, rule=rule, layers=layers, block=block)
    per, rule = _resolved(per, kind), _rule(rule, kind)
    if kind in CHANCE and rule == "random":
        return Choice(random_selection(model, density=density, kind=kind, layers=layers, seed=seed), {})
    if kind == "elements":
        return Choice(top_entries(model, batches, density=density, layers=layers, positions=positions), {})
    batch, length = mean_size(batches)
    whole: dict[str, Any] = {"batch": batch, "length": length, "biases": biases, "norms": norms}
    units: Units | None = None
    kinds: str | Mapping[str, str] = kind
    options: dict[str, Any] = {"kind": kind, "density": density}
    if kind not in LINES:
        units = find_units(model, kind, layers=layers, block=block)
        kinds, options = units.kinds, {"units": units, "density": density}
    elif backward is not None:
        kinds, total = affordable(model, kind, layers, backward, **whole)
        options = {"kind": kind, "entries": max(1, math.floor(round(density * total, 6)))}
    scores = sensitivity(model, batches, kind=kinds, layers=layers, rule=rule, positions=positions, seed=seed, block=block)
    return Choice(budget(scores, model, backward=backward, per=per, **whole, **options), scores)


def drawn_selection(model: nn.Module, select: Select, seed: int = SEED) -> Selection:
    """A Selection as large, as scattered and as deep as `best_units` makes for these options, without any data.

    Every eligible weight gives the same share of its units, every layer for coupled ones: the most that it takes to train it.

    Args:
        select: resolved.

    Raises:
        ValueError: for options that do not fit the model.
    """
    if select.kind in (*LINES, "blocks", "elements", "groups"):
        dry = next(model.parameters()).is_meta
        return random_selection(
            model, density=select.share, kind=select.kind, layers=select.layers, block=select.blocks, seed=seed, dry=dry
        )
    units = find_units(model, select.kind, layers=select.layers)
    generator = torch.Generator().manual_seed(seed)
    scores = {name: torch.rand(part.layout.units, generator=generator) for name, part in units.items()}
    return budget(scores, model, density=select.share, per="layer", units=units)


def check_units(
    model: nn.Module,
    kind: str,
    *,
    density: float,
    backward: float | None,
    per: str,
    rule: str,
    layers: str,
    block: tuple[int, int],
) -> None:
    """Raises ValueError for what `best_units` would refuse, as far as that can be told before anything is scored."""
    per = _resolved(per, kind)
    check_budget(density, "rows", per, backward=backward, coupled=kind not in (*LINES, *CHANCE))
    if kind not in CHANCE:
        find_units(model, kind, layers=layers, block=block)
        return
    eligible_weights(model, layers)
    rule = _rule(rule, kind)
    for name, value, known in (("rule", rule, CHANCE[kind]), ("per", per, ("model",)), ("backward", backward, (None,))):
        if value not in known:
            raise ValueError(f"choose: {name} must be {' or '.join(map(str, known))} for {kind}, got {value!r}")


def _resolved(per: str, kind: str) -> str:
    """Spread over all weights, columns and rows learn more; benchmarks/tasks/NOTES.md."""
    return per if per != "auto" else "weight" if kind in LINES else "model"


def _rule(rule: str, kind: str) -> str:
    return rule if rule != "auto" else "random" if kind == "groups" else "fisher"


def _groups(rows: Iterable[Mapping], tokenizer: Any) -> TokenGroups:
    for row in rows:
        if "text" not in row or not {"label", "labels"} & set(row):
            raise ValueError(f"choose: dataset rows must have text and label where tokens is True, got {sorted(row)}")
    pairs = ((row["text"], label) for row in rows for label in ([row["label"]] if "label" in row else row["labels"]))
    return token_groups(((text, str(label)) for text, label in pairs), tokenizer)
