"""AdamW over compact values, scattered into the dense weights, for all parameters in one call."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from clm_kernels import _cpu

from ..layout import DENSE
from .arguments import DTYPES, array


class AdamWPlan:
    """`adamw_step_` of the same tensors again and again: what it needs to know of them is collected once."""

    def __init__(
        self,
        values: list[Tensor],
        exp_avgs: list[Tensor],
        exp_avg_sqs: list[Tensor],
        max_exp_avg_sqs: list[Tensor],
        masters: list[Tensor],
        anchors: list[Tensor],
        denses: list[Tensor],
        indices: list[Tensor],
        layouts: Sequence[int],
        amsgrad: bool,
        maximize: bool,
    ):
        typed = (values, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, masters, anchors)
        self.tensors = (*typed, denses, indices)  # kept alive
        addresses = [list(map(Tensor.data_ptr, tensors)) for tensors in self.tensors]  # 0 for an empty tensor
        dtypes = [[DTYPES[tensor.dtype] for tensor in tensors] for tensors in typed]
        sizes = [list(map(Tensor.numel, values)), list(map(Tensor.numel, indices)), [index.itemsize for index in indices]]
        self.plan = _cpu.AdamWPlan(addresses, dtypes, sizes, layouts, amsgrad, maximize)
        scattered = [dense for dense, kind in zip(denses, layouts[::5], strict=True) if kind != DENSE]
        self.written = values + exp_avgs + exp_avg_sqs + masters + scattered + (max_exp_avg_sqs if amsgrad else [])

    def __call__(
        self, grads: list[Tensor], settings: Tensor, grad_scale: Tensor | None = None, found_inf: Tensor | None = None
    ) -> None:
        if found_inf is not None and found_inf.item():
            return
        settings = settings.contiguous()
        scale = None if grad_scale is None else grad_scale.item()
        self.plan.run(list(map(array, grads)), settings.data_ptr(), scale, torch.get_num_threads())
        increment_version(self.written)
        if grad_scale is not None:
            increment_version(grads)
