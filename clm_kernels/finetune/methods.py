"""The four ways to train: a selection of the weights, the head alone, everything, LoRA."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import require
from ..models.structure import weights
from ..optim import SparseAdamW
from ..patching import Handle, patch
from ..selecting.batches import batches_of, mean_size
from ..selecting.budget.cost import CostModel
from ..selecting.pipeline import Choice, best_units, check_units
from ..selecting.scores.positions import at_groups
from ..selecting.scores.rules import RULES
from ..selecting.scores.warm_up import warm_up_head
from ..selection import Selection
from ..token_groups import TokenGroups, token_groups
from .config import TrainConfig
from .data import Split
from .encode import Encoded
from .lora import add_lora
from .models import Loaded

WARM_UP_EXAMPLES = 512  # at least, for the head: a forward pass of each, once


@dataclass
class Method:
    """What a method has made ready.

    Attributes:
        optimizer: None where the Trainer is to make its own AdamW.
        trained: how many numbers are trained.
        model: what the Trainer calls, where that is a wrapper around the loaded model.
    """

    handle: Handle | None
    optimizer: torch.optim.Optimizer | None
    trained: int
    model: torch.nn.Module | None = None


def find_groups(config: TrainConfig, loaded: Loaded, train: Split) -> TokenGroups | None:
    """The token groups of the training data; None where they are not to be looked for, empty where ``select="auto"`` finds none."""
    whole_texts = bool(train.labels) and isinstance(train.labels[0], str)
    wanted = config.select == "tokens" or (config.select == "auto" and whole_texts)  # benchmarks/tasks/NOTES.md
    if config.method != "sparse" or not wanted or config.selection:
        return None
    groups = token_groups(zip(train.texts, train.labels), loaded.tokenizer)
    if config.select == "tokens":
        require(len(groups) > 0, "train", "select", "another than 'tokens' for these data", "no run of words that tells a label")
    return groups


def select(config: TrainConfig, loaded: Loaded, train: Encoded, groups: TokenGroups | None = None) -> Selection:
    """The selection that `choose_units` makes."""
    return choose_units(config, loaded, train, groups).selection


def choose_units(config: TrainConfig, loaded: Loaded, train: Encoded, groups: TokenGroups | None = None) -> Choice:
    """The selection to train: read from a file if the config names one, or measured on the training data.

    With the selects tokens and auto units are scored where `groups` stand, by default those of the training data. The head is warmed
    up on the way, for every method alike, and stays so. Scores come along where they are a sensitivity.
    """
    named = None
    extension = loaded.extension
    if config.selection:
        require(Path(config.selection).is_file(), "train", "selection", "an existing file", repr(config.selection))
        named = Selection.load(config.selection)
        named = extension.extend(named) if extension else named
        named.check(weights(loaded.model))
    rule = "fisher" if config.select in ("auto", "tokens") else config.select
    units = {"kind": config.kind, "density": config.density, "cost": config.cost, "per": config.per, "rule": rule,
             "layers": config.layers, "block": (config.block, config.block)}  # fmt: skip
    if config.method == "sparse" and named is None:
        check_units(loaded.model, **units)  # before anything is computed
    warm_up_head(loaded.model, drawn_batches(config, loaded, train, max(WARM_UP_EXAMPLES, config.sensitivity_examples)))
    if config.method != "sparse":
        return Choice(extension.extend(Selection()) if extension and config.method == "head" else Selection(), {})
    if named is not None:
        return Choice(named, {})
    groups = find_groups(config, loaded, train.split) if groups is None else groups
    batches = drawn_batches(config, loaded, train, config.sensitivity_examples)
    chosen, scores = best_units(
        loaded.model, batches, **units, positions=at_groups(groups) if groups else None, seed=config.seed,
        biases=config.biases, norms=config.norms,
    )  # fmt: skip
    return Choice(extension.extend(chosen) if extension else chosen, scores if rule in RULES else {})


def drawn_batches(config: TrainConfig, loaded: Loaded, train: Encoded, examples: int) -> list[dict[str, torch.Tensor]]:
    """So many examples, drawn by the seed, in batches as in training."""
    return batches_of(
        loaded.model, loaded.tokenizer, train.dataset, examples,
        batch_size=config.batch_size, max_length=config.max_length, seed=config.seed,
    )  # fmt: skip


def spent(config: TrainConfig, loaded: Loaded, selection: Selection, train: Encoded) -> dict[str, Any]:
    """FLOPs of a training step's backward beside full fine-tuning's, in batches of the mean size of those that score.

    Raises:
        ValueError: for a model whose cost cannot be told, see `CostModel`, or a method other than sparse, head and full.
    """
    require(config.method in ("sparse", "head", "full"), "spent", "method", "sparse, head or full", repr(config.method))
    batch, length = mean_size(drawn_batches(config, loaded, train, config.sensitivity_examples))
    model, sparse = CostModel(loaded.model, batch, length), config.method == "sparse"
    whole = {"biases": sparse and config.biases, "norms": sparse and config.norms}
    cost = model.full if config.method == "full" else model.of(selection, **whole)
    return {"share": cost.share, **cost._asdict(), "batch": batch, "length": length}


def prepare(config: TrainConfig, loaded: Loaded, selection: Selection) -> Method:
    """Patches or adapts the model, which is on its device, and makes the optimizer."""
    if config.method == "full":
        return Method(None, None, count_trained(loaded.model))
    if config.method == "lora":
        add_lora(config, loaded)
        return Method(None, optimizer_for(config, loaded.model), count_trained(loaded.model))
    sparse = config.method == "sparse"
    handle = patch(
        loaded.model, selection, biases=sparse and config.biases, norms=sparse and config.norms, head=loaded.head,
        extension=loaded.extension,
    )  # fmt: skip
    return Method(handle, optimizer_for(config, loaded.model), count_trained(loaded.model))


def optimizer_for(config: TrainConfig, model: torch.nn.Module) -> SparseAdamW:
    """AdamW over all that requires a gradient; biases and normalisation do not decay, as usual."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": config.decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return SparseAdamW([group for group in groups if group["params"]], lr=config.peak_learning_rate)


def count_trained(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
