"""AdamW over compact values, scattered into the dense weights, for all parameters in one call."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from clm_kernels import _cpu

from ..layout import DENSE
from .arguments import DTYPES


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
    settings = settings.contiguous()
    typed = (values, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, masters, anchors)
    addresses = [list(map(Tensor.data_ptr, tensors)) for tensors in (*typed, denses, indices)]  # 0 for an empty tensor
    dtypes = [[DTYPES[tensor.dtype] for tensor in tensors] for tensors in typed]
    sizes = [list(map(Tensor.numel, values)), list(map(Tensor.numel, indices)), [index.itemsize for index in indices]]
    scale = None if grad_scale is None else grad_scale.item()
    _cpu.adamw_step(addresses, dtypes, sizes, layouts, settings.data_ptr(), amsgrad, maximize, scale, torch.get_num_threads())

    increment_version(values + exp_avgs + exp_avg_sqs + masters)
    increment_version([dense for dense, kind in zip(denses, layouts[::5], strict=True) if kind != DENSE])
    if amsgrad:
        increment_version(max_exp_avg_sqs)
    if grad_scale is not None:
        increment_version(grads)
