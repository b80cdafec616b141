"""The method lora: PEFT's low-rank layers beside the weights (Hu et al., arXiv 2106.09685)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import require
from ...extras import needs
from ...models.linear import is_conv1d
from ..artifacts import ADAPTER
from ..lora import Adapter, adapt, fold, targets
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

    def save(self, folder: Path, prepared: Prepared, loaded: Loaded, labels: list[str], recipe: Recipe) -> None:
        adapter = Adapter.of(loaded, labels, recipe)
        fold(loaded.model)
        adapter.save(folder)
        loaded.model.config.save_pretrained(folder)
        loaded.tokenizer.save_pretrained(folder)

    def load(self, path: Path) -> Any:
        return Adapter.load(path.parent)
