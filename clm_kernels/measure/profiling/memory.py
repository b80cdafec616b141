"""Where the memory of a training step goes: sizes of the tensors that there are, and what the allocators told torch's profiler."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.autograd import DeviceType

from ...values import Values

PARTS = ("weights", "gradients", "optimizer state", "activations")
DEVICES = {"cpu": DeviceType.CPU, "cuda": DeviceType.CUDA}


def weights(model: nn.Module) -> int:
    """Bytes of parameters, buffers and the selected entries' indices."""
    indices = (p.entries._held for p in model.parameters() if isinstance(p, Values))
    return _bytes(itertools.chain(model.parameters(), model.buffers(), indices))


def gradients(optimizer: torch.optim.Optimizer) -> int:
    return _bytes(p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None)


def optimizer_state(optimizer: torch.optim.Optimizer) -> int:
    return _bytes(value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor))


def _bytes(tensors: Iterable[Tensor]) -> int:
    """Of the storages, each once."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in tensors}
    return sum(storage.nbytes() for storage in storages.values())


class Curve:
    """Bytes that a device holds, over time, relative to the profiler's start."""

    def __init__(self, profiler: torch.profiler.profile, device: torch.device):
        result = profiler.profiler.kineto_results
        begin = result.trace_start_ns()
        records = sorted(
            ((event.start_ns() - begin) / 1e3, event.nbytes())
            for event in result.events()
            if event.name() == "[memory]" and event.device_type() == DEVICES[device.type]
        )
        self.times = torch.tensor([time for time, _ in records], dtype=torch.float64)
        self.held = torch.tensor([0, *itertools.accumulate(count for _, count in records)], dtype=torch.int64)

    def at(self, time: float) -> int:
        """Bytes at `time`, microseconds of the profiler's clock."""
        return int(self.held[torch.searchsorted(self.times, time, right=True)])

    def highest(self, start: float, end: float) -> int:
        first, last = (int(torch.searchsorted(self.times, time, right=True)) for time in (start, end))
        return int(self.held[first : last + 1].max())
