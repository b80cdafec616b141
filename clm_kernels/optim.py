"""`SparseAdamW`: torch's AdamW, of which gradient and state cover only what is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from . import ops
from .ops.layout import DENSE
from .ops.parameters import Parameters
from .ops.registry import implementation
from .selection import Selection
from .values import Values

LOW_PRECISION = (torch.bfloat16, torch.float16)
DENSE_LAYOUT = (DENSE, 0, 0, 0, 0)


class SparseAdamW(Optimizer):
    """Drop-in for `torch.optim.AdamW` whose state covers the selected entries alone.

    It takes the parameters of a patched model (`clm_kernels.patch`): compact values are updated and scattered into
    their dense weights, ordinary parameters are updated whole, all in one call of `ops.adamw_step_`. bf16 and fp16
    parameters get float32 master values in the state. Source: Loshchilov & Hutter, arXiv 1711.05101.

    Args:
        params: parameters, groups, or ``model.named_parameters()``.
        lr: learning rate, a float or a 0-dim tensor.
        betas, eps, weight_decay, amsgrad, maximize: as `torch.optim.AdamW`.
        foreach, fused, capturable: accepted for compatibility; there is one implementation, and it is fused.
        differentiable: must be False.
        decay_to: what weight decay pulls toward: ``"zero"``, or ``"pretrained"``, the value at the first step.
        selection: for an unpatched model: what to train of the weights named in it. Their dense gradients are
            gathered from and freed as soon as autograd has made them. `params` must then be named. Other parameters
            are trained whole. Clip and clear over the optimizer's own ``param_groups``: they hold the compact
            gradients, which ``model.parameters()`` does not (so patch the model for transformers' Trainer).

    Raises:
        ValueError: for arguments out of range, or a selection that does not fit the parameters.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decay_to: str = "zero",
        selection: Selection | None = None,
    ):
        if differentiable:
            raise ValueError("SparseAdamW: differentiable must be False, got True; use torch.optim.AdamW for that")
        if decay_to not in ("zero", "pretrained"):
            raise ValueError(f"SparseAdamW: decay_to must be 'zero' or 'pretrained', got {decay_to!r}")
        _check_range("lr", lr, 0.0)
        _check_range("eps", eps, 0.0)
        _check_range("weight_decay", weight_decay, 0.0)
        for i, beta in enumerate(betas):
            _check_range(f"betas[{i}]", beta, 0.0, 1.0)
        defaults = {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "amsgrad": amsgrad, "maximize": maximize,
            "foreach": foreach, "capturable": capturable, "differentiable": differentiable, "fused": fused, "decay_to": decay_to,
        }  # fmt: skip
        self._forget()
        super().__init__(params, defaults)
        if selection is not None:
            self._select(selection)

    def _forget(self) -> None:
        self._versions: dict[nn.Parameter, int] = {}  # of parameters with masters, as of the last step
        self._batches: list[_Batch] = []
        self._collected: list | None = None  # what they were collected from

    def __setstate__(self, state):
        self._forget()
        super().__setstate__(state)
        for group in self.param_groups:
            group.setdefault("decay_to", "zero")

    def _select(self, selection: Selection) -> None:
        """Puts compact values in the place of every selected weight."""
        if any("param_names" not in group for group in self.param_groups):
            raise ValueError("SparseAdamW: params must be model.named_parameters() when a selection is given, got no names")
        named = {
            name: parameter
            for group in self.param_groups
            for name, parameter in zip(group["param_names"], group["params"], strict=True)
        }
        selection.check(named)
        for group in self.param_groups:
            for i, (name, dense) in enumerate(zip(group["param_names"], group["params"], strict=True)):
                if name in selection:
                    if isinstance(dense, Values):
                        raise ValueError(f"SparseAdamW: {name!r} is a compact parameter of a patched model; leave selection out")
                    group["params"][i] = Values(dense, selection[name].to(dense.device))
                    group["params"][i].take_dense_gradient()

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One step over all parameters that have a gradient; returns what `closure` returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._check_hooks()
        active = [[p for p in group["params"] if p.grad is not None] for group in self.param_groups]
        identity = self._identity(active)
        if identity != self._collected:
            self._batches = self._collect(active)
            self._collected = self._identity(active)
        for batch in self._batches:
            batch.refresh_masters(self._versions)
            batch.run()
            batch.note_versions(self._versions)
        return loss

    def _check_hooks(self) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if isinstance(parameter, Values) and parameter.hooked:
                    if parameter.dense.grad is not None:
                        raise RuntimeError(
                            "SparseAdamW: a selected weight must not have a dense gradient when its compact one is used; "
                            "DDP puts it back: patch the model before wrapping it, and select weights of patched layers only"
                        )
                    parameter.spent = True

    def _identity(self, active: list[list[nn.Parameter]]) -> list:
        """What the collected batches depend on: they serve as long as this stays the same."""
        identity = []
        for group, parameters in zip(self.param_groups, active, strict=True):
            identity.append((id(group), len(parameters), group["amsgrad"], group["maximize"], group["decay_to"]))
            for p in parameters:
                identity += id(p), p.data_ptr(), id(self.state[p].get("exp_avg"))
                if isinstance(p, Values):
                    identity.append(p.dense.data_ptr())
        return identity

    def _collect(self, active: list[list[nn.Parameter]]) -> list[_Batch]:
        batches: dict[tuple, _Batch] = {}
        for group, parameters in zip(self.param_groups, active, strict=True):
            for parameter in parameters:
                key = parameter.device, group["amsgrad"], group["maximize"]
                batch = batches.setdefault(key, _Batch(*key))
                batch.add(parameter, self._state(parameter, group), group)
        for batch in batches.values():
            batch.join_steps()
        return list(batches.values())

    def _state(self, parameter: nn.Parameter, group: dict) -> dict:
        state = self.state[parameter]
        wide = torch.float32 if parameter.dtype in LOW_PRECISION else parameter.dtype
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"] = torch.zeros_like(parameter, dtype=wide, memory_format=torch.contiguous_format)
            state["exp_avg_sq"] = torch.zeros_like(state["exp_avg"])
            if group["amsgrad"]:
                state["max_exp_avg_sq"] = torch.zeros_like(state["exp_avg"])
        if wide != parameter.dtype and "master" not in state:  # also after a state without one, of torch's AdamW, has been loaded
            state["master"] = parameter.detach().to(wide)
        if group["decay_to"] == "pretrained" and "pretrained" not in state:
            state["pretrained"] = parameter.detach().clone()
        return state

    def load_state_dict(self, state_dict: dict) -> None:
        """As torch's, but every state tensor keeps the dtype it was saved with: float32 masters stay float32."""
        super().load_state_dict(state_dict)
        saved = (key for group in state_dict["param_groups"] for key in group["params"])
        own = (parameter for group in self.param_groups for parameter in group["params"])
        for key, parameter in zip(saved, own, strict=True):
            for name, value in state_dict["state"].get(key, {}).items():
                if isinstance(value, Tensor) and name != "step":
                    self.state[parameter][name] = value.to(parameter.device, copy=True)


class _Batch:
    """The arguments of one call of `ops.adamw_step_`: collected once, and used as long as the parameters stay where they are."""

    def __init__(self, device: torch.device, amsgrad: bool, maximize: bool):
        self.device, self.amsgrad, self.maximize, self.none = device, amsgrad, maximize, torch.empty(0, device=device)
        self.parameters, self.groups, self.states, self.layouts = [], [], [], []
        self.exp_avgs, self.exp_avg_sqs, self.max_exp_avg_sqs = [], [], []
        self.masters, self.anchors, self.denses, self.indices = [], [], [], []
        self.plans: dict[str, Callable] = {}  # by the name of the implementation

    def add(self, parameter: nn.Parameter, state: dict, group: dict) -> None:
        self.parameters.append(parameter)
        self.groups.append(group)
        self.states.append(state)
        self.exp_avgs.append(state["exp_avg"])
        self.exp_avg_sqs.append(state["exp_avg_sq"])
        self.max_exp_avg_sqs.append(state["max_exp_avg_sq"] if self.amsgrad else self.none)
        self.masters.append(state.get("master", self.none))
        self.anchors.append(state.get("pretrained", self.none))
        sparse = isinstance(parameter, Values)
        self.denses.append(parameter.dense if sparse else self.none)
        self.indices.append(parameter.entries.index if sparse else self.none)
        self.layouts += parameter.entries.layout if sparse else DENSE_LAYOUT

    def join_steps(self) -> None:
        """Puts the step counters side by side, so that all are counted at once."""
        self.steps = torch.stack([state["step"].cpu() for state in self.states])
        for state, step in zip(self.states, self.steps.unbind(), strict=True):
            state["step"] = step
        self.mastered = [(p, m) for p, m in zip(self.parameters, self.masters, strict=True) if m is not self.none]

    def refresh_masters(self, versions: dict[nn.Parameter, int]) -> None:
        """Reads masters anew where somebody else has written into the parameter since the last step."""
        for parameter, master in self.mastered:
            if versions.get(parameter) != parameter._version and not torch.equal(master.to(parameter.dtype), parameter):
                master.copy_(parameter)

    def note_versions(self, versions: dict[nn.Parameter, int]) -> None:
        versions.update((parameter, parameter._version) for parameter, _ in self.mastered)

    def settings(self) -> Tensor:
        """The table of `ops.adamw_step_`."""
        groups = {id(group): group for group in self.groups}.values()
        scalars = {id(g): (float(g["lr"]), *map(float, g["betas"]), g["eps"], g["weight_decay"], 0.0) for g in groups}
        settings = torch.tensor([scalars[id(group)] for group in self.groups], dtype=torch.float64)
        settings[:, 5] = self.steps
        return settings

    def run(self) -> None:
        grads = [parameter.grad for parameter in self.parameters]
        if any(grad.layout is not torch.strided for grad in grads):
            raise RuntimeError("SparseAdamW: gradients must be dense tensors; use an embedding with sparse=False")
        grads = [grad.contiguous() for grad in grads]
        self.steps += 1
        tensors = (
            self.exp_avgs, self.exp_avg_sqs, self.max_exp_avg_sqs, self.masters, self.anchors, self.denses, self.indices,
        )  # fmt: skip
        name = ops.chosen(self.device)
        if name in self.plans:
            self.plans[name](grads, self.settings())
            return
        ops.adamw_step_(
            self.parameters, grads, *tensors, self.layouts, self.settings(), amsgrad=self.amsgrad, maximize=self.maximize
        )
        checked = Parameters(self.parameters, *tensors, self.layouts, self.amsgrad, self.maximize)
        self.plans[name] = implementation("AdamWPlan", self.device)(checked)


def _check_range(name: str, value: float | Tensor, low: float, high: float = float("inf")) -> None:
    if isinstance(value, Tensor) and value.numel() != 1:
        raise ValueError(f"SparseAdamW: {name} must be a number or a 0-dim tensor, got shape {tuple(value.shape)}")
    if not low <= float(value) < high:
        raise ValueError(f"SparseAdamW: {name} must lie in [{low}, {high}), got {float(value)}")
