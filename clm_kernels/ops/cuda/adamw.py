"""AdamW over compact values, scattered into the dense weights, for all parameters in one launch."""

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from ... import _cuda
from ..addresses import array, plan_arguments
from ..fields import SETTINGS
from ..parameters import Parameters
from ..upload import upload
from .arguments import NO_ARRAY, GradTable, stream, table

OP = "adamw_step_"


class AdamWPlan:
    """`adamw_step_` of the same tensors again and again: what the kernel needs to know of them is on the device.

    Nothing waits for the GPU. In a CUDA graph, `settings` must lie on the device, and gradients where they were at the
    step before the capture. Steps on several streams must be ordered by the caller, as for any tensor.
    """

    def __init__(self, parameters: Parameters):
        self.parameters = parameters  # kept alive
        self.plan = _cuda.AdamWPlan(**plan_arguments(parameters))
        self.written = parameters.written
        self.device = parameters.values[0].device
        self.table = table(self.plan.table(), self.device)
        self.grads = GradTable(OP, len(parameters.values), self.device)
        self.settings = torch.empty(len(parameters.values), len(SETTINGS), dtype=torch.float64, device=self.device)

    def __call__(
        self,
        grads: list[Tensor],
        settings: Tensor,
        grad_scale: Tensor | None = None,
        found_inf: Tensor | None = None,
        clip: Tensor | None = None,
    ) -> None:
        with torch.cuda.device(self.device):
            if settings.device.type == "cpu":
                upload(OP, "settings", self.settings, settings)
                settings = self.settings
            settings = settings.contiguous()
            scalars = [None if s is None else s.to(self.device) for s in (grad_scale, found_inf, clip)]
            self.plan.run(
                self.table.data_ptr(), self.grads.address(grads), settings.data_ptr(),
                *(NO_ARRAY if s is None else array(s) for s in scalars), stream(self.device),
            )  # fmt: skip
        increment_version(self.written)
        if grad_scale is not None:
            increment_version(grads)
