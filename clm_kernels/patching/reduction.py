"""Averages gradients over processes at the end of each backward, for parameters that nobody else reduces."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Variable

BUCKET = 1 << 25  # bytes that are sent at a time, as DDP does: small gradients share a message, large ones need no copy


class Reduction:
    """Sums up each parameter's gradient over the processes and divides it by their number.

    What has been accumulated may be averaged again: the mean of equal gradients is the gradient. So every backward may do so,
    and the last of several is enough.

    Attributes:
        wanted: whether the backward ends with it.
        exchanged: bytes of gradients that the last backward has handed over to be summed up.
    """

    def __init__(self, parameters: list[nn.Parameter], processes: dist.ProcessGroup):
        self.parameters, self.processes = parameters, processes
        self.wanted, self.exchanged, self._task = True, 0, -1
        self._hooks = [parameter.register_post_accumulate_grad_hook(self._at_the_end) for parameter in parameters]

    def remove(self) -> None:
        """Leaves the backward as it was."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    @contextmanager
    def put_off(self) -> Iterator[None]:
        """Backwards inside leave their gradients as they are."""
        before, self.wanted = self.wanted, False
        try:
            yield
        finally:
            self.wanted = before

    def _at_the_end(self, _: Tensor) -> None:
        task = torch._C._current_graph_task_id()  # a flag would outlive a backward that raised
        if self.wanted and task != self._task:
            self._task = task
            Variable._execution_engine.queue_callback(self.run)

    @torch.no_grad()
    def run(self) -> None:
        """Averages what there is. A gradient that some processes lack counts as zeros there; one that all lack stays away."""
        for parameter, somewhere in zip(self.parameters, self._somewhere()):
            if somewhere and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self.exchanged = 0
        grads = [parameter.grad for parameter in self.parameters if parameter.grad is not None and parameter.grad.numel()]
        for bucket in buckets(grads):
            self._average(bucket)

    def _somewhere(self) -> list[bool]:
        place = self.parameters[0].device
        has = torch.tensor([parameter.grad is not None for parameter in self.parameters], dtype=torch.uint8, device=place)
        dist.all_reduce(has, dist.ReduceOp.MAX, group=self.processes)
        return has.bool().tolist()

    def _average(self, grads: list[Tensor]) -> None:
        alone = len(grads) == 1 and grads[0].is_contiguous()
        together = grads[0] if alone else torch.cat([grad.flatten() for grad in grads])
        together.div_(self.processes.size())
        dist.all_reduce(together, group=self.processes)
        self.exchanged += together.nbytes
        if not alone:
            for grad, part in zip(grads, together.split([grad.numel() for grad in grads])):
                grad.copy_(part.view_as(grad))


def buckets(grads: list[Tensor]) -> list[list[Tensor]]:
    """The same in the same order, of one dtype each, of at most `BUCKET` bytes or a single one."""
    found: list[list[Tensor]] = []
    for dtype in dict.fromkeys(grad.dtype for grad in grads):
        room = 0
        for grad in (grad for grad in grads if grad.dtype == dtype):
            if grad.nbytes > room:
                found.append([])
                room = BUCKET
            found[-1].append(grad)
            room -= grad.nbytes
    return found
