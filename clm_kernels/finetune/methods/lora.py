"""The method lora: PEFT's low-rank layers beside the weights (Hu et al., arXiv 2106.09685)."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import require
from ...extras import needs
from ...models.linear import is_conv1d
from ...models.plain_head import pooler_names
from ..artifacts import ADAPTER, ADAPTER_CONFIG, CARD
from ..lora import Adapter, adapt, fold, targets
from ..shipping.adapter import for_plain_peft, served_in_training, warning, write_adapter_card
from .base import Method, Prepared
from .optimizer import sparse_adamw

if TYPE_CHECKING:
    from torch import nn

    from ...extension import Extension
    from ...recipe import Recipe
    from ...selection import Selection
    from ..config import TrainConfig
    from ..models import Loaded
    from ..tasks import Task


class LowRank(Method):
    # 3e-3 was better on all-MiniLM-L6-v2 after 250 steps (banking77 86.3 against 83.5, snips_slots 76.8 against 67.7), the
    # paper's 7B models took 1e-4 (arXiv 2310.01208); 1e-3 stands between them.
    RATE = 1e-3
    leaves, called = ADAPTER, "adapter"

    def learning_rate(self, task: Task) -> float:
        return 3 * self.RATE if task.per_token else self.RATE

    def check(self, config: TrainConfig) -> None:
        super().check(config)
        alone = "0 with the method lora, which trains no embedding rows"
        require(not config.data.merge_tokens, "train", "merge_tokens", alone, config.data.merge_tokens)

    def check_packages(self, function: str) -> None:
        needs("peft", function)

    def prepare(
        self,
        model: nn.Module,
        config: TrainConfig,
        selection: Selection,
        *,
        head: bool | Iterable[str] = True,
        extension: Extension | None = None,
    ) -> Prepared:
        """The adapter has the model's dtype; what it starts from is torch's own draw."""
        from peft import LoraConfig

        names = targets(model, config.lora.lora_targets, config.selecting.layers)
        modules = dict(model.named_modules())
        handle = adapt(model, head, LoraConfig(
            r=config.lora.lora_rank, lora_alpha=config.lora.lora_alpha, lora_dropout=config.lora.lora_dropout, target_modules=names,
            fan_in_fan_out=is_conv1d(modules[names[0]]),
            base_model_name_or_path=config.data.model,
        ))  # fmt: skip
        return Prepared(model, sparse_adamw(model, config.training.learning_rate, config.training.weight_decay), handle)

    def said_before(self, loaded: Loaded, labels: list[str], recipe: Recipe) -> str:
        return warning(served_in_training(loaded, labels, recipe))

    def save(self, folder: Path, prepared: Prepared, loaded: Loaded, labels: list[str], recipe: Recipe) -> None:
        served = served_in_training(loaded, labels, recipe)
        form = for_plain_peft(served)
        with form or nullcontext():
            if form is not None and form.calls:  # the pooler is part of what was made, and the pooling the class's own
                loaded = replace(loaded, head=list(dict.fromkeys([*loaded.head, *pooler_names(loaded.model)])))
                recipe = replace(recipe, pooling="native")
            adapter = Adapter.of(loaded, labels, recipe)
            loaded.model.config.save_pretrained(folder)
        fold(loaded.model)
        adapter.save(folder)
        loaded.tokenizer.save_pretrained(folder)
        write_adapter_card(folder, served, recipe.model, form is not None)

    def files(self, loaded: Loaded) -> list[str]:
        return [ADAPTER, ADAPTER_CONFIG, CARD]

    def load(self, path: Path) -> Any:
        return Adapter.load(path.parent)
