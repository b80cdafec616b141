"""AdamW (Loshchilov & Hutter, arXiv 1711.05101, algorithm 2) over compact values, scattered into the dense weights."""

import torch
from torch import Tensor

from ..fields import SETTINGS
from ..layout import DENSE, Layout
from ..parameters import Parameters
from .gradients import accumulator
from .movement import scatter_


class AdamWPlan:
    """One AdamW step of the same tensors at every call, see `ops.adamw_step_` for what they are."""

    def __init__(self, parameters: Parameters):
        self.parameters = list(zip(*parameters.tensors, strict=True))
        self.layouts = Layout.every(parameters.layouts)
        self.amsgrad, self.maximize = parameters.amsgrad, parameters.maximize

    def __call__(
        self,
        grads: list[Tensor],
        settings: Tensor,
        grad_scale: Tensor | None = None,
        found_inf: Tensor | None = None,
        clip: Tensor | None = None,
    ) -> None:
        if found_inf is not None and found_inf.item():
            return
        for tensors, layout, grad, scalars in zip(self.parameters, self.layouts, grads, settings.tolist(), strict=True):
            if grad_scale is not None:
                grad.div_(grad_scale)
            self._update(*tensors, layout, grad, clip, **dict(zip(SETTINGS, scalars, strict=True)))

    def _update(
        self, value, exp_avg, exp_avg_sq, max_exp_avg_sq, master, anchor, dense, index, layout, grad, clip,
        lr, beta1, beta2, eps, weight_decay, step,
    ) -> None:  # fmt: skip
        master = master if master.numel() else value
        wide = accumulator(value.dtype)
        g = -grad.to(wide) if self.maximize else grad.to(wide)
        if clip is not None:
            g = g * clip.to(g)
        weight = master.to(wide)

        away = weight - anchor.to(wide) if anchor.numel() else weight
        weight = weight - lr * weight_decay * away
        m = beta1 * exp_avg.to(wide) + (1 - beta1) * g
        v = beta2 * exp_avg_sq.to(wide) + (1 - beta2) * g * g
        exp_avg.copy_(m)
        exp_avg_sq.copy_(v)
        if self.amsgrad:
            v = torch.maximum(max_exp_avg_sq.to(wide), v)
            max_exp_avg_sq.copy_(v)
        denominator = v.sqrt() / (1 - beta2**step) ** 0.5 + eps
        weight = weight - lr / (1 - beta1**step) * m / denominator

        master.copy_(weight)
        value.copy_(weight)
        if layout.kind != DENSE:
            scatter_(dense, index, layout, value)
