"""Which kernels torch would take on a device, for tensors that are on none: they differ in what they keep for the backward."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

aten = torch.ops.aten


class KernelsOf(TorchFunctionMode):
    """Runs attention and dropout on the meta device as `device`, ``"cpu"`` or ``"cuda"``, would.

    Fused attention never holds the ``(T, T)`` scores; on the CPU there is none with dropout. A fused dropout keeps a mask
    of bytes, the CPU's one of the activations' dtype. All else does the same everywhere.
    """

    def __init__(self, device: str):
        super().__init__()
        self.on_gpu = device == "cuda"

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self._attention(*args, **kwargs)
        if func is F.dropout and self.on_gpu:
            return _fused_dropout(*args, **kwargs)
        return func(*args, **kwargs)

    def _attention(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
        is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
    ) -> Tensor:  # fmt: skip
        if dropout_p and not self.on_gpu:
            options = {"attn_mask": attn_mask, "dropout_p": dropout_p, "is_causal": is_causal, "scale": scale}
            return F.scaled_dot_product_attention(query, key, value, enable_gqa=enable_gqa, **options)
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            attn_mask = torch.where(attn_mask, *(query.new_full((), fill) for fill in (0.0, -torch.inf)))
        if not self.on_gpu:
            flash = aten._scaled_dot_product_flash_attention_for_cpu
            return flash(query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)[0]
        if enable_gqa:
            key, value = (t.repeat_interleave(query.shape[1] // t.shape[1], 1) for t in (key, value))
        bias = None if attn_mask is None else attn_mask.expand(*query.shape[:3], key.shape[2])
        return aten._scaled_dot_product_efficient_attention(query, key, value, bias, True, dropout_p, is_causal, scale=scale)[0]


def _fused_dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    return torch.native_dropout(x, p, True)[0] if training and p > 0 else x
