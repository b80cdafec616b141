"""The method sparse: a selection of the weights, in place."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import require
from ...models.structure import weights
from ...selecting.pipeline import Choice, best_units, check_units, drawn_selection
from ...selecting.scores.positions import at_groups
from ...selecting.scores.rules import RULES
from ...selection import Selection
from ...token_groups import token_groups
from ..dividing import check_fsdp
from ..models import Loaded
from ..tasks import TASKS
from .patched import Patched
from .warming import drawn_batches, warm_up

if TYPE_CHECKING:
    from torch import nn

    from ...token_groups import TokenGroups
    from ..config import TrainConfig
    from ..encode import Encoded
    from ..split import Split
    from ..tasks import Task


class Sparse(Patched):
    selects, active_tokens, divides = True, True, True

    def learning_rate(self, task: Task) -> float:
        return 3e-3 if task.per_token else 1e-3

    def resolved(self, config: TrainConfig, task: Task) -> TrainConfig:
        return super().resolved(config, task).replace(selecting=config.selecting.resolved())

    def check(self, config: TrainConfig) -> None:
        super().check(config)
        without = "left out with merge_tokens, whose embedding rows take the whole backward pass"
        backward = config.selecting.backward
        require(backward is None or not config.data.merge_tokens, "train", "backward", without, backward)
        check_fsdp(config)

    def choose(self, config: TrainConfig, loaded: Loaded, train: Encoded, groups: TokenGroups | None = None) -> Choice:
        """The selection to train: read from a file if the config names one, or measured on the training data.

        With the selects tokens and auto units are scored where `groups` stand, by default those of the training data. The
        head stays warmed up. Scores come along where they are a sensitivity.
        """
        chosen, model = config.selecting, loaded.model
        named = self._named(chosen.selection, loaded) if chosen.selection else None
        rule = "fisher" if chosen.select in ("auto", "tokens") else chosen.select
        units = {"kind": chosen.kind, "density": chosen.density, "backward": chosen.backward, "per": chosen.per, "rule": rule,
                 "layers": chosen.layers, "block": chosen.blocks}  # fmt: skip
        if named is None:
            check_units(model, **units)  # before anything is computed
        if not config.training.fsdp:  # else when the base is divided
            warm_up(config, loaded, train)
        if named is not None:
            return Choice(named, {})
        groups = self.find_groups(config, loaded, train.split) if groups is None else groups
        selection, scores = best_units(
            model, drawn_batches(config, loaded, train, chosen.sensitivity_examples), **units,
            positions=at_groups(groups) if groups else None, seed=config.run.seed, biases=chosen.biases, norms=chosen.norms,
        )  # fmt: skip
        extended = loaded.extension.extend(selection) if loaded.extension else selection
        return Choice(extended, scores if rule in RULES else {})

    def start(self, config: TrainConfig, loaded: Loaded, train: Encoded) -> None:
        """Warms up the head of a divided base: all processes do the same."""
        if config.training.fsdp:
            warm_up(config, loaded, train)

    def _named(self, path: str, loaded: Loaded) -> Selection:
        require(Path(path).is_file(), "train", "selection", "an existing file", repr(path))
        named = Selection.load(path)
        named = loaded.extension.extend(named) if loaded.extension else named
        named.check(weights(loaded.model))
        return named

    def draw(self, model: nn.Module, config: TrainConfig) -> Selection:
        return drawn_selection(model, config.selecting.resolved(), config.run.seed)

    def find_groups(self, config: TrainConfig, loaded: Loaded, train: Split) -> TokenGroups | None:
        """None where they are not to be looked for, empty where ``select="auto"`` finds none."""
        select, task = config.selecting.select, TASKS[config.data.task]
        wanted = select == "tokens" or (select == "auto" and not task.per_token)  # benchmarks/tasks/NOTES.md
        if not wanted or config.selecting.selection:
            return None
        groups = token_groups(task.pairs(train), loaded.tokenizer)
        if select == "tokens":
            another = "another than 'tokens' for these data"
            require(len(groups) > 0, "train", "select", another, "no run of words that tells a label")
        return groups

    def whole(self, config: TrainConfig) -> dict[str, bool]:
        return {"biases": config.selecting.biases, "norms": config.selecting.norms}
