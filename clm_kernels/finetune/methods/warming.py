"""What all methods do before they choose: a head that is warmed up, on batches drawn by the seed."""

from __future__ import annotations

from torch import Tensor

from ...defaults import EXAMPLES
from ...selecting.batches import batches_of
from ...selecting.scores.warm_up import warm_up_head
from ..config import TrainConfig
from ..encode import Encoded
from ..models import Loaded


def drawn_batches(
    config: TrainConfig, loaded: Loaded, train: Encoded, examples: int, every: bool = False
) -> list[dict[str, Tensor]]:  # fmt: skip
    """So many examples, drawn by the seed, in batches as in training; of a text in windows one of them.

    Args:
        every: whether windows are drawn as if each were a text: then lengths are those of training.
    """
    rows = train.dataset
    if train.windows is not None and not every:
        rows = rows.select(train.windows.one_each(config.run.seed))
    return batches_of(
        loaded.model, loaded.tokenizer, rows, examples,
        batch_size=config.training.batch_size, max_length=config.data.max_length, seed=config.run.seed,
    )  # fmt: skip


def warm_up(config: TrainConfig, loaded: Loaded, train: Encoded) -> None:
    """Trains the head alone, on a forward pass of at least `EXAMPLES` examples."""
    examples = max(EXAMPLES, config.selecting.sensitivity_examples)
    warm_up_head(loaded.model, drawn_batches(config, loaded, train, examples))
