"""What a training run costs: floating point operations, tokens, memory."""

from __future__ import annotations

import resource
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

import torch
from torch import nn

from clm_kernels.finetune.trainer import EpochSampler
from clm_kernels.measure.estimate.operations import flops


def flops_per_token(model: nn.Module, batch: dict[str, torch.Tensor]) -> float:
    """Of a training step's forward and backward pass, a padded token; the model's gradients are cleared afterwards."""
    training = model.training
    model.train()
    with torch.random.fork_rng(devices=[]):  # dropout must not move the run's own draws
        counted = flops(lambda: model(**batch).loss.backward())
    model.train(training)
    for parameter in model.parameters():
        parameter.grad = None
    return counted / batch["input_ids"].numel()


def every_token(dy: torch.Tensor, energy: float) -> tuple[torch.Tensor, torch.Tensor]:
    """In place of the active ones, to count a step by."""
    return torch.arange(len(dy), device=dy.device), torch.tensor(len(dy), device=dy.device)


def of_every_token(
    active: Sequence[Mapping[str, Any]], cost: Mapping[str, Any], examples: Sequence[Mapping[str, float]] = ()
) -> float:
    """What a run's steps cost beside steps at every token of every example, by its report's `active`, `cost` and `examples`.

    1 where it took them all. Padding goes with the tokens.
    """
    steps = [1.0] * max(1, len(examples))
    if active:
        every = cost["forward"] + cost["input_gradients"] + cost["weight_gradients"]
        steps = [(cost["forward"] + line["flops"] * cost["full"]) / every for line in active]
    read = [line["tokens"] for line in examples] or [1.0] * len(steps)
    return mean(step * part for step, part in zip(steps, read, strict=True))


def tokens(lengths: Sequence[int], batch_size: int, epochs: int, seed: int) -> tuple[int, int]:
    """Real and padded tokens of a whole training, in the order in which the Trainer goes through the examples."""
    sampler, padded = EpochSampler(batch_size, list(lengths), seed), 0
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        order = list(sampler)
        for start in range(0, len(order), batch_size):
            batch = [lengths[i] for i in order[start : start + batch_size]]
            padded += max(batch) * len(batch)
    return epochs * sum(lengths), padded


def memory(device: torch.device) -> int:
    """The most bytes that the GPU's tensors, or this process as a whole, have taken so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kilobytes on Linux
