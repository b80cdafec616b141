"""What a training run costs: floating point operations, tokens, memory."""

from __future__ import annotations

import math
import resource
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from clm_kernels.finetune.trainer import EpochSampler


def _weight_grad(dy, x, index, layout, dtype, out_shape=None, **_) -> int:
    """2 T products for each selected entry; dy ``(T, out)``."""
    return 2 * dy[0] * math.prod(out_shape)


def _sensitivity(dy, x, kind, weights=None, out_shape=None, **_) -> int:
    """Of each example a Gram matrix of one side ``(B, T, n)`` and its product with the other side ``(B, T, m)``."""
    batch, tokens, rows = dy
    return 2 * batch * tokens * tokens * (rows + x[2])


def _attention(query, key, value, *_, **__) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward(dy, query, key, value, *_, **__) -> int:
    return sdpa_backward_flop_count(dy, query, key, value)


FORMULAS = {  # of the products that torch's counter does not know
    torch.ops.clm_kernels.weight_grad: _weight_grad,
    torch.ops.clm_kernels.sensitivity: _sensitivity,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


def flops(run: Callable[[], object]) -> int:
    """Operations of all matrix products that `run` makes, compact gradients included; a multiplication and addition are two."""
    with FlopCounterMode(display=False, custom_mapping=FORMULAS) as counter:
        run()
    return counter.get_total_flops()


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
