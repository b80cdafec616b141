"""The share of tokens and examples by which a run would keep to its `--cost`, from counted steps without data."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn
from transformers import PretrainedConfig

from ...finetune.config import TrainConfig
from ...finetune.pacing import Price, check_cost
from ..subject import batch, beside, build, prepare
from .operations import flops


def share_of(model: PretrainedConfig, config: TrainConfig, length: int, backward: Callable[[nn.Module, dict], object]) -> float:
    """Of the tokens in every backward, and after the first epoch of the examples, as `pacing.Pace` would plan it.

    Args:
        config: resolved, with a cost.
        length: tokens a text.
        backward: runs a model forward and backward on a batch.

    Raises:
        ValueError: for a cost that cannot be reached, or that leaves nothing out.
    """

    def counted(asked: TrainConfig, *shares: float) -> list[int]:
        called, inputs = prepare(build(model, asked, "meta"), asked).model, batch(asked, length, "meta")
        return [flops(lambda: backward(called, inputs), share) for share in shares]

    none, every = counted(config, 0.0, 1.0)
    (full,) = counted(beside(config, method="full"), 1.0)
    price = Price(none / full, (every - none) / full)
    cost, epochs = config.training.cost, config.training.epochs
    assert cost is not None
    check_cost(cost, price, epochs)
    return price.share(cost * epochs, epochs)
