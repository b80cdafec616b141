"""The method full: everything, by torch's own AdamW, as the Trainer makes it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.optim import AdamW

from ...models.portable import MODULE, pools_by_code, save_portable
from ...selecting.batches import mean_size
from ...selecting.budget.cost import CostModel
from ..artifacts import INDEX, SHARDS, WHOLE
from .base import Method, Prepared
from .warming import drawn_batches

if TYPE_CHECKING:
    from torch import nn

    from ...extension import Extension
    from ...recipe import Recipe
    from ...selection import Selection
    from ..config import TrainConfig
    from ..encode import Encoded
    from ..models import Loaded
    from ..tasks import Task


class Full(Method):
    leaves, called, whole_checkpoint = WHOLE, "checkpoint", True
    weight_decay = 0.01

    def learning_rate(self, task: Task) -> float:
        return 3e-4 if task.per_token else 1e-4

    def can_replay(self, config: TrainConfig) -> bool:
        return False

    def resolved(self, config: TrainConfig, task: Task) -> TrainConfig:
        """In float32, as AdamW keeps no masters of lower ones."""
        resolved = super().resolved(config, task)
        return resolved.replace(dtype="float32") if resolved.data.dtype == "auto" else resolved

    def prepare(
        self,
        model: nn.Module,
        config: TrainConfig,
        selection: Selection,
        *,
        head: bool | Iterable[str] = True,
        extension: Extension | None = None,
    ) -> Prepared:
        from transformers import Trainer

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

    def cost(self, config: TrainConfig, loaded: Loaded, selection: Selection, train: Encoded) -> dict[str, Any]:
        batch, length = mean_size(drawn_batches(config, loaded, train, config.selecting.sensitivity_examples, every=True))
        cost = CostModel(loaded.model, batch, length).full
        return {"share": cost.share, **cost._asdict(), "batch": batch, "length": length}

    def save(self, folder: Path, prepared: Prepared, loaded: Loaded, labels: list[str], recipe: Recipe) -> None:
        save_portable(loaded.model, folder)
        loaded.tokenizer.save_pretrained(folder)

    def files(self, loaded: Loaded) -> list[str]:
        code = [f"{MODULE}.py"] if pools_by_code(loaded.model) else []
        return [WHOLE, SHARDS, INDEX, *code]
