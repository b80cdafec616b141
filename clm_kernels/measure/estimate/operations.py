"""Floating point operations of whatever runs, counted by torch's counter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count


def _of_active(share: float) -> dict[Any, Callable]:
    """The products that active tokens alone may take part in, by their own count; `share` of all where that has no data."""

    def rows(dy: Tensor, count: Tensor | None) -> float:
        if count is None:
            return dy.shape[0]
        return share * dy.shape[0] if count.is_meta else int(count)

    def weight_grad(dy, x, index, layout, dtype, tokens=None, count=None, out_val=None) -> int:
        """2 T products for each selected entry; dy ``(T, out)``."""
        return round(2 * rows(dy, count) * out_val.numel())

    def input_grad(dy, weight, tokens, count, out_val=None) -> int:
        """2 T products for each entry of the weight."""
        return round(2 * rows(dy, count) * weight.numel())

    formulas: dict[Any, Any] = {torch.ops.clm_kernels.weight_grad: weight_grad, torch.ops.clm_kernels.input_grad: input_grad}
    for formula in formulas.values():
        formula._get_raw = True  # the counter then hands over tensors in place of their shapes
    return formulas


def _sensitivity(dy, x, kind, weights=None, out_shape=None, **_) -> int:
    """Of each example a Gram matrix of one side ``(B, T, n)`` and its product with the other side ``(B, T, m)``."""
    batch, tokens, rows = dy
    return 2 * batch * tokens * tokens * (rows + x[2])


def _attention(query, key, value, *_, **__) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward(dy, query, key, value, *_, **__) -> int:
    return sdpa_backward_flop_count(dy, query, key, value)


FORMULAS = {  # of the products that torch's counter does not know
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


def flops(run: Callable[[], object], active_share: float = 1.0) -> int:
    """Operations of all matrix products that `run` makes, compact gradients included; a multiplication and addition are two.

    Args:
        active_share: of the tokens where some are left out of a backward on the meta device, where nobody knows how many.
    """
    counter = FlopCounterMode(display=False, custom_mapping=FORMULAS | _of_active(active_share))
    counter.mod_tracker = _Untracked()
    with counter:
        run()
    return counter.get_total_flops()
