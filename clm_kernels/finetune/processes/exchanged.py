"""What processes exchange in a run: the gradients that all-reduce is given, counted where it is given them."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel


class Exchanged:
    """Counts the bytes of the gradients that this process gives to the mean over all.

    Attributes:
        nbytes: of all steps together.
        steps: how many there were.
        entries: numbers in the gradients of one step.
    """

    def __init__(self) -> None:
        self.nbytes = self.steps = self.entries = 0
        self._watched: nn.Module | None = None

    def watch(self, model: nn.Module) -> None:
        """Begins to count, before the first backward; nothing happens for what is not DDP, or watched already."""
        if isinstance(model, DistributedDataParallel) and self._watched is not model:
            self._watched = model
            self.entries = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
            model.register_comm_hook(None, lambda _, bucket: self._reduce(bucket))  # torch reads annotations, which are text here

    def _reduce(self, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        self.nbytes += bucket.buffer().nbytes
        self.steps += bucket.is_last()
        return allreduce_hook(None, bucket)

    def told(self) -> dict[str, float]:
        """As `Report.exchanged` has it; empty where nothing was exchanged."""
        if not self.steps or dist.get_world_size() == 1:
            return {}
        step = self.nbytes / self.steps
        return {
            "processes": dist.get_world_size(),
            "bytes": step,
            "entries": self.entries,
            "bytes_an_entry": step / self.entries,
        }
