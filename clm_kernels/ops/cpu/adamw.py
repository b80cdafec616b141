"""AdamW over compact values, scattered into the dense weights, for all parameters in one call."""

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from ... import _cpu
from ..addresses import arrays, plan_arguments
from ..parameters import Parameters


class AdamWPlan:
    """`adamw_step_` of the same tensors again and again: what it needs to know of them is collected once."""

    def __init__(self, parameters: Parameters):
        self.parameters = parameters  # kept alive
        self.plan = _cpu.AdamWPlan(**plan_arguments(parameters))
        self.written = parameters.written

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
        settings = settings.contiguous()
        scale, factor = (None if scalar is None else scalar.item() for scalar in (grad_scale, clip))
        self.plan.run(arrays(grads), settings.data_ptr(), scale, factor, torch.get_num_threads())
        increment_version(self.written)
        if grad_scale is not None:
            increment_version(grads)
