"""What all methods do before they choose: a head that is warmed up, on batches drawn by the seed."""

from __future__ import annotations

from torch import Tensor

from ...defaults import EXAMPLES
from ...selecting.batches import batches_of
from ...selecting.scores.warm_up import warm_up_head
from ..config import TrainConfig
from ..encode import Encoded
from ..models import Loaded


def drawn_batches(config: TrainConfig, loaded: Loaded, train: Encoded, examples: int) -> list[dict[str, Tensor]]:
    """So many examples, drawn by the seed, in batches as in training."""
    return batches_of(
        loaded.model, loaded.tokenizer, train.dataset, examples,
        batch_size=config.training.batch_size, max_length=config.data.max_length, seed=config.run.seed,
    )  # fmt: skip


def warm_up(config: TrainConfig, loaded: Loaded, train: Encoded) -> None:
    """Trains the head alone, on a forward pass of at least `EXAMPLES` examples."""
    examples = max(EXAMPLES, config.selecting.sensitivity_examples)
    warm_up_head(loaded.model, drawn_batches(config, loaded, train, examples))
