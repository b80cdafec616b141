"""What the methods share that train some entries of a model in place: a patch, and a delta that is left."""

from __future__ import annotations

from ...delta import Delta
from ...patching import patch
from ...selecting.batches import mean_size
from ...selecting.budget.cost import CostModel
from ..artifacts import DELTA
from ..config import TrainConfig
from .base import Method, Prepared
from .optimizer import sparse_adamw
from .warming import drawn_batches


class Patched(Method):
    leaves, called = DELTA, "delta"

    def whole(self, config: TrainConfig) -> dict[str, bool]:
        """Whether biases and normalisation are trained too, as `patch` takes it."""
        return {"biases": False, "norms": False}

    def prepare(self, model, config, selection, *, head=True, extension=None):
        dry = next(model.parameters()).is_meta
        handle = patch(model, selection, **self.whole(config), head=head, extension=extension, dry=dry)
        return Prepared(model, sparse_adamw(model, config.training.learning_rate, config.training.weight_decay), handle)

    def cost(self, config, loaded, selection, train):
        batch, length = mean_size(drawn_batches(config, loaded, train, config.selecting.sensitivity_examples))
        cost = CostModel(loaded.model, batch, length).of(selection, **self.whole(config))
        return {"share": cost.share, **cost._asdict(), "batch": batch, "length": length}

    def save(self, folder, prepared, loaded, labels, recipe):
        delta = prepared.handle.delta(labels=labels, recipe=recipe)
        prepared.handle.restore()
        loaded.model.config.save_pretrained(folder)
        loaded.tokenizer.save_pretrained(folder)
        delta.save(folder / self.leaves)

    def load(self, path):
        return Delta.load(path)
