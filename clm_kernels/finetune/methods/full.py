"""The method full: everything, by torch's own AdamW, as the Trainer makes it."""

from __future__ import annotations

from dataclasses import replace

from torch.optim import AdamW
from transformers import Trainer

from ...models.portable import save_portable
from ...selecting.batches import mean_size
from ...selecting.budget.cost import CostModel
from ..artifacts import WHOLE
from .base import Method, Prepared
from .warming import drawn_batches


class Full(Method):
    leaves, called = WHOLE, "checkpoint"
    weight_decay = 0.01

    def learning_rate(self, task):
        return 1e-4

    def can_replay(self, config):
        return False

    def resolved(self, config, task):
        """In float32, as AdamW keeps no masters of lower ones."""
        resolved = super().resolved(config, task)
        return replace(resolved, dtype="float32") if resolved.data.dtype == "auto" else resolved

    def prepare(self, model, config, selection, *, head=True, extension=None):
        decaying = set(Trainer.get_decay_parameter_names(None, model))
        named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        groups = [
            {
                "params": [p for name, p in named if (name in decaying) == decays],
                "weight_decay": decays * config.training.weight_decay,
            }
            for decays in (True, False)
        ]
        on_meta = next(model.parameters()).is_meta
        return Prepared(model, AdamW(groups, lr=config.training.learning_rate, fused=not on_meta))

    def cost(self, config, loaded, selection, train):
        batch, length = mean_size(drawn_batches(config, loaded, train, config.selecting.sensitivity_examples))
        cost = CostModel(loaded.model, batch, length).full
        return {"share": cost.share, **cost._asdict(), "batch": batch, "length": length}

    def save(self, folder, prepared, loaded, labels, recipe):
        save_portable(loaded.model, folder)
        loaded.tokenizer.save_pretrained(folder)
