"""AdamW (Loshchilov & Hutter, arXiv 1711.05101, algorithm 2) over compact values, scattered into the dense weights."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..layout import DENSE, Layout
from .gradients import accumulator
from .movement import scatter_


def adamw_step_(
    values: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    max_exp_avg_sqs: list[Tensor],
    masters: list[Tensor],
    anchors: list[Tensor],
    denses: list[Tensor],
    indices: list[Tensor],
    layouts: Sequence[int],
    settings: Tensor,
    amsgrad: bool,
    maximize: bool,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> None:
    if found_inf is not None and found_inf.item():
        return
    for i, (value, grad, settings_i) in enumerate(zip(values, grads, settings.tolist(), strict=True)):
        lr, beta1, beta2, eps, weight_decay, step = settings_i
        exp_avg, exp_avg_sq, master = exp_avgs[i], exp_avg_sqs[i], masters[i] if masters[i].numel() else value
        wide = accumulator(value.dtype)
        if grad_scale is not None:
            grad.div_(grad_scale)
        g = -grad.to(wide) if maximize else grad.to(wide)
        weight = master.to(wide)

        away = weight - anchors[i].to(wide) if anchors[i].numel() else weight
        weight = weight - lr * weight_decay * away
        m = beta1 * exp_avg.to(wide) + (1 - beta1) * g
        v = beta2 * exp_avg_sq.to(wide) + (1 - beta2) * g * g
        exp_avg.copy_(m)
        exp_avg_sq.copy_(v)
        if amsgrad:
            v = torch.maximum(max_exp_avg_sqs[i].to(wide), v)
            max_exp_avg_sqs[i].copy_(v)
        denominator = v.sqrt() / (1 - beta2**step) ** 0.5 + eps
        weight = weight - lr / (1 - beta1**step) * m / denominator

        master.copy_(weight)
        value.copy_(weight)
        layout = Layout(*layouts[5 * i : 5 * i + 5])
        if layout.kind != DENSE:
            scatter_(denses[i], indices[i], layout, value)
