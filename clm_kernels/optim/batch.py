"""All parameters that one call of `ops.adamw_step_` updates."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor, nn

from .. import ops
from ..ops.checks import check_scalar
from ..ops.layout import DENSE
from ..ops.owned import check_memory
from ..ops.parameters import Parameters
from ..ops.registry import implementation
from ..shards import Shard
from ..values import Values
from .guard import Guard, form
from .settings import Settings

DENSE_LAYOUT = (DENSE, 0, 0, 0, 0)


class Batch:
    """The arguments of one call of `ops.adamw_step_`: collected once, and used as long as it `holds`."""

    def __init__(self, device: torch.device, amsgrad: bool, maximize: bool, capturable: bool):
        self.device, self.amsgrad, self.maximize, self.capturable = device, amsgrad, maximize, capturable
        self.none = torch.empty(0, device=device)
        self.places, self.parameters, self.groups, self.states, self.layouts = [], [], [], [], []
        self.values, self.exp_avgs, self.exp_avg_sqs, self.max_exp_avg_sqs = [], [], [], []
        self.masters, self.anchors, self.denses, self.indices = [], [], [], []
        self.shards: list[tuple[nn.Parameter, Shard]] = []  # written to after the op
        self.singles: list[int] = []  # of one entry: the only gradients that can be contiguous and negative by a mark alone
        self.settings: Settings | None = None
        self.plans: dict[str, Callable] = {}  # by the name of the implementation
        self.guard: Guard | None = None
        self.checked: list | None = None  # what the gradients were when an op last checked them

    def add(self, place: int, parameter: nn.Parameter, state: dict, group: dict) -> None:
        """Adds the parameter whose gradient will be `run`'s of number `place`."""
        if parameter.numel() == 1:
            self.singles.append(len(self.places))
        self.places.append(place)
        self.parameters.append(parameter)
        self.groups.append(group)
        self.states.append(state)
        # The kernels take memory in one piece: of any other parameter they are given a copy, see `run`.
        self.values.append(parameter if parameter.is_contiguous() else parameter.detach().contiguous())
        self.exp_avgs.append(state["exp_avg"])
        self.exp_avg_sqs.append(state["exp_avg_sq"])
        self.max_exp_avg_sqs.append(state["max_exp_avg_sq"] if self.amsgrad else self.none)
        self.masters.append(state.get("master", self.none))
        self.anchors.append(state.get("pretrained", self.none))
        shard = parameter.shard if isinstance(parameter, Values) else None
        if shard is not None:
            self.shards.append((parameter, shard))
        sparse = isinstance(parameter, Values) and shard is None  # of a shard the op sees the values alone
        self.denses.append(parameter.dense if sparse else self.none)
        self.indices.append(parameter.entries._held if sparse else self.none)
        self.layouts += parameter.entries.layout if sparse else DENSE_LAYOUT

    @cached_property
    def tensors(self) -> tuple[list[Tensor], ...]:
        return (
            self.exp_avgs, self.exp_avg_sqs, self.max_exp_avg_sqs, self.masters, self.anchors, self.denses, self.indices,
        )  # fmt: skip

    def holds(self) -> bool:
        """Whether all that the plans hold is where it was when they were made."""
        return self.guard is not None and self.guard.holds()

    def _guarded(self) -> Guard:
        """Of all that a plan holds but the indices, which nobody can change."""
        every = (tensor for tensors in (self.parameters, *self.tensors[:-1]) for tensor in tensors)
        return Guard([tensor for tensor in every if tensor is not self.none], [state["step"] for state in self.states])

    @cached_property
    def mastered(self) -> list[tuple[nn.Parameter, Tensor]]:
        return [(p, m) for p, m in zip(self.parameters, self.masters, strict=True) if m is not self.none]

    @cached_property
    def copied(self) -> list[tuple[nn.Parameter, Tensor]]:
        return [(p, v) for p, v in zip(self.parameters, self.values, strict=True) if p is not v]

    def recall_versions(self, versions: dict[nn.Parameter, int]) -> None:
        """Takes over what another batch has noted of the parameters with masters."""
        self.noted = [versions.get(parameter) for parameter, _ in self.mastered]

    def versions(self) -> dict[nn.Parameter, int]:
        return {parameter: version for (parameter, _), version in zip(self.mastered, self.noted, strict=True)}

    def note_versions(self) -> None:
        self.noted = [parameter._version for parameter, _ in self.mastered]

    def refresh_masters(self) -> None:
        """Reads masters anew at the entries where somebody else has written into the parameter since the last step.

        Version counters tell whether to look, the GPU itself at which entries: nobody waits for its answer.
        """
        if self.noted != (now := [parameter._version for parameter, _ in self.mastered]):
            for (parameter, master), before, version in zip(self.mastered, self.noted, now, strict=True):
                if before != version:
                    master.copy_(torch.where(master.to(parameter.dtype) == parameter, master, parameter))

    def run(self, grads: list[Tensor], grad_scale: Tensor | None = None, found_inf: Tensor | None = None) -> None:
        """One step with the `grads` of all batches' parameters; what a `GradScaler` hands over is read on the device, and so are the settings from then on."""
        grads = [grads[place] for place in self.places]
        for i in self.singles:
            grads[i] = grads[i].resolve_neg()
        if not all(map(Tensor.is_contiguous, grads)):
            grads = [grad.contiguous() for grad in map(strided, grads)]
        place = self.device if self.capturable or found_inf is not None else torch.device("cpu")
        if self.settings is None or self.settings.device != place:
            self.settings = Settings(self.groups, self.states, place)
            self.guard = self._guarded()  # the step counters are others now, and no plan is older than this
        for parameter, value in self.copied:
            value.copy_(parameter)
        self._update(grads, self.settings.next(found_inf), grad_scale, found_inf)
        for parameter, value in self.copied:
            parameter.copy_(value)
        for parameter, shard in self.shards:
            shard.write(parameter)

    def _update(self, grads: list[Tensor], settings: Tensor, grad_scale: Tensor | None, found_inf: Tensor | None) -> None:
        name, given = ops.chosen(self.device), form(grads)
        if name in self.plans and given == self.checked:
            for scalar, tensor in (("grad_scale", grad_scale), ("found_inf", found_inf)):
                if tensor is not None:
                    check_scalar("SparseAdamW", scalar, tensor)
                    check_memory("SparseAdamW", scalar, tensor)
            self.plans[name](grads, settings, grad_scale, found_inf)
            return
        options = {"amsgrad": self.amsgrad, "maximize": self.maximize}
        ops.adamw_step_(
            self.values, grads, *self.tensors, self.layouts, settings, **options, grad_scale=grad_scale, found_inf=found_inf
        )
        self.checked = given
        if name not in self.plans:
            checked = Parameters(self.values, *self.tensors, self.layouts, self.amsgrad, self.maximize)
            self.plans[name] = implementation("AdamWPlan", self.device)(checked)


def strided(grad: Tensor) -> Tensor:
    if grad.layout is not torch.strided:
        raise RuntimeError("SparseAdamW: gradients must be dense tensors; use an embedding with sparse=False")
    check_memory("SparseAdamW", "a gradient", grad)
    return grad
