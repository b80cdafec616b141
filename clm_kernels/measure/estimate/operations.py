"""Floating point operations of whatever runs, counted by torch's counter."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count


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


class _Untracked:
    """In place of the counter's tracker of modules, whose hooks keep every batch's activations until garbage is collected."""

    parents = frozenset({"Global"})

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_) -> None:
        pass


def flops(run: Callable[[], object]) -> int:
    """Operations of all matrix products that `run` makes, compact gradients included; a multiplication and addition are two."""
    counter = FlopCounterMode(display=False, custom_mapping=FORMULAS)
    counter.mod_tracker = _Untracked()
    with counter:
        run()
    return counter.get_total_flops()
