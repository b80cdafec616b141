"""What the methods share that train some entries of a model in place: a patch, and a delta that is left."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...delta import Delta
from ...patching import patch
from ...selecting.batches import mean_size
from ...selecting.budget.cost import CostModel
from ..artifacts import DELTA
from ..config import TrainConfig
from ..pacing import BEGIN
from ..tasks import TASKS
from .base import Method, Prepared
from .optimizer import sparse_adamw
from .warming import drawn_batches

if TYPE_CHECKING:
    from torch import nn

    from ...extension import Extension
    from ...recipe import Recipe
    from ...selection import Selection
    from ..encode import Encoded
    from ..models import Loaded


class Patched(Method):
    leaves, called = DELTA, "delta"

    def whole(self, config: TrainConfig) -> dict[str, bool]:
        """Whether biases and normalisation are trained too, as `patch` takes it."""
        return {"biases": False, "norms": False}

    def prepare(
        self,
        model: nn.Module,
        config: TrainConfig,
        selection: Selection,
        *,
        head: bool | Iterable[str] = True,
        extension: Extension | None = None,
    ) -> Prepared:
        dry = next(model.parameters()).is_meta
        training = config.training
        energy, noise = (training.energy, training.noise) if self.active_tokens else ("1", 0.0)
        if training.cost is not None:
            energy, noise = (str(1 - BEGIN), 0.0) if TASKS[config.data.task].per_token else ("1", BEGIN)
        handle = patch(
            model, selection, **self.whole(config), head=head, extension=extension, energy=energy, noise=noise, dry=dry
        )
        if training.fsdp and not dry:
            from ...patching.sharding import shard

            shard(handle)
        return Prepared(model, sparse_adamw(model, training.learning_rate, training.weight_decay), handle)

    def cost(self, config: TrainConfig, loaded: Loaded, selection: Selection, train: Encoded) -> dict[str, Any]:
        batch, length = mean_size(drawn_batches(config, loaded, train, config.selecting.sensitivity_examples, every=True))
        model_cost, whole = CostModel(loaded.model, batch, length), self.whole(config)
        cost = model_cost.of(selection, **whole)
        found = {"share": cost.share, **cost._asdict(), "batch": batch, "length": length}
        if self.active_tokens and config.training.leaves_out:
            found["layers"] = model_cost.by_layer(selection, **whole)
        return found

    def save(self, folder: Path, prepared: Prepared, loaded: Loaded, labels: list[str], recipe: Recipe) -> None:
        delta = prepared.handle.delta(labels=labels, recipe=recipe)
        prepared.handle.restore()
        loaded.model.config.save_pretrained(folder)
        loaded.tokenizer.save_pretrained(folder)
        delta.save(folder / self.leaves)

    def help_to_save(self, prepared: Prepared) -> None:
        """Of a divided base every process gives its part of the delta."""
        if prepared.handle.sharded is not None:
            prepared.handle.delta()

    def load(self, path: Path) -> Any:
        return Delta.load(path)
