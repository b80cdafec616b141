"""The table of settings that a step reads, and the step counters that go into it."""

from __future__ import annotations

from itertools import groupby

import torch
from torch import Tensor

from ..ops.fields import SETTINGS
from .arguments import number

STEP = SETTINGS.index("step")


class Settings:
    """The `settings` of `ops.adamw_step_`, on one device, written where something has changed.

    On a GPU nothing waits for it: counters count there, a learning rate that is a tensor there is copied there, and
    numbers are written by kernels.

    Args:
        groups: the parameter group of each parameter; those of one group stand side by side.
        states: the state of each parameter, whose ``step`` becomes a view of `steps`.
        device: where to keep all of it.
    """

    def __init__(self, groups: list[dict], states: list[dict], device: torch.device):
        self.device = device
        self.steps = torch.stack([state["step"].to(device) for state in states])
        for state, step in zip(states, self.steps.unbind(), strict=True):
            state["step"] = step
        self.table = torch.empty(len(states), len(SETTINGS), dtype=torch.float64, device=device)
        runs = (list(run) for _, run in groupby(enumerate(groups), lambda item: id(item[1])))
        self.columns = [(run[0][1], [self.table[run[0][0] : run[-1][0] + 1, j] for j in range(STEP)]) for run in runs]
        self.written: dict[tuple[int, int], float] = {}
        self.in_graphs: set[tuple[int, int]] = set()  # what every replay of a CUDA graph writes anew

    def next(self, found_inf: Tensor | None = None) -> Tensor:
        """The table of the next step, which does not count if `found_inf` is not 0."""
        self.steps += 1 if found_inf is None else found_inf.to(self.device, non_blocking=True) == 0
        self.table[:, STEP] = self.steps
        for i, (group, columns) in enumerate(self.columns):
            values = group["lr"], *group["betas"], group["eps"], group["weight_decay"]
            for j, (column, value) in enumerate(zip(columns, values, strict=True)):
                if isinstance(value, Tensor) and value.device.type == self.device.type and value.numel() == 1:
                    column[:] = value.squeeze()
                else:
                    self._write((i, j), column, number(SETTINGS[j], value))
        return self.table

    def _write(self, key: tuple[int, int], column: Tensor, value: float) -> None:
        if self.written.get(key) != value or key in self.in_graphs:
            column.fill_(value)
            self.written[key] = value
            if capturing():
                self.in_graphs.add(key)


def capturing() -> bool:
    """Whether a CUDA graph is being captured."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()
