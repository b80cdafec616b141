"""`SparseAdamW`: torch's AdamW, of which gradient and state cover only what is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..ops.owned import check_memory
from ..selection import Selection
from ..values import Values
from .arguments import check_flags, check_rates
from .batch import Batch
from .settings import capturing

LOW_PRECISION = (torch.bfloat16, torch.float16)


class SparseAdamW(Optimizer):
    """Drop-in for `torch.optim.AdamW` whose state covers the selected entries alone.

    It takes the parameters of a patched model (`clm_kernels.patch`): compact values are updated and scattered into
    their dense weights, ordinary parameters are updated whole, all in one call of `ops.adamw_step_`. bf16 and fp16
    parameters get float32 master values in the state. Source: Loshchilov & Hutter, arXiv 1711.05101.

    Args:
        params: parameters, groups, or ``model.named_parameters()``.
        lr: learning rate, a float or a 0-dim tensor.
        betas, eps, weight_decay, amsgrad, maximize: as `torch.optim.AdamW`.
        foreach: accepted for compatibility; there is one implementation, and it is fused.
        capturable: keeps step counters and settings on the parameters' device, so that `step` can be captured in a CUDA
            graph, after two steps, and never waits for the GPU. A learning rate that is to change between replays is a
            tensor there; numbers are those of the capture, or of a later step outside of the graph. Gradients must keep
            their place (``zero_grad(set_to_none=False)``), steps outside of the graph find the same ones, and whoever
            writes into bf16 or fp16 parameters lets one such step see it: replays read the masters alone.
        differentiable: must be False.
        fused: False makes `GradScaler` unscale the gradients and look at its ``found_inf`` on the host, before `step`; else
            `step` does both where they lie.
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
        check_flags(lr, betas, foreach, capturable, differentiable, fused)
        check_rates(lr, betas, eps, weight_decay)
        if decay_to not in ("zero", "pretrained"):
            raise ValueError(f"SparseAdamW: decay_to must be 'zero' or 'pretrained', got {decay_to!r}")
        given = tuple(beta.squeeze() if isinstance(beta, Tensor) else beta for beta in betas)
        defaults = {
            "lr": lr, "betas": given, "eps": eps, "weight_decay": weight_decay, "amsgrad": amsgrad, "maximize": maximize,
            "foreach": foreach, "capturable": capturable, "differentiable": differentiable, "fused": fused, "decay_to": decay_to,
        }  # fmt: skip
        self._forget()
        super().__init__(params, defaults)
        if selection is not None:
            self._select(selection)

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Asked by `torch.amp.GradScaler`, which then hands `grad_scale` and `found_inf` to `step` as attributes."""
        return self.defaults["fused"] is not False

    def _forget(self) -> None:
        self._versions: dict[nn.Parameter, int] = {}  # of parameters with masters, as of the last step
        self._batches: list[Batch] = []
        self._hooked: list[Values] = []  # whose gradient is taken from a dense one
        self._captured: list[Batch] = []  # that CUDA graphs go on using
        self._collected: list | None = None  # what the batches were collected from

    def __setstate__(self, state: dict[str, Any]) -> None:
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

    @torch._disable_dynamo  # torch.compiler.disable, but that one makes the import of this package take a second longer
    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step over all parameters that have a gradient; returns what `closure` returns.

        `torch.compile` leaves it as it is: it knows its tensors by their addresses, and is one launch already.
        """
        if capturing() and not all(group["capturable"] for group in self.param_groups):
            raise RuntimeError("SparseAdamW: capturable must be True while a CUDA graph is captured, got False")
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        every = [[p.grad for p in group["params"]] for group in self.param_groups]
        active = [
            [p for p, grad in zip(group["params"], own) if grad is not None] for group, own in zip(self.param_groups, every)
        ]
        grads = [grad for own in every for grad in own if grad is not None]
        if not (self._identity(active) == self._collected and all(batch.holds() for batch in self._batches)):
            self._collected = None
            self._collect(active)
        self._check_hooks()
        for batch in self._batches:
            batch.refresh_masters()
            batch.run(grads, getattr(self, "grad_scale", None), getattr(self, "found_inf", None))
            batch.note_versions()
        self._collected = self._identity(active)
        if capturing():
            self._captured += self._batches
        return loss

    def _check_hooks(self) -> None:
        for parameter in self._hooked:
            if parameter.hooked and parameter.dense is not None and parameter.dense.grad is not None:
                raise RuntimeError(
                    "SparseAdamW: a selected weight must not have a dense gradient when its compact one is used; "
                    "DDP puts it back: patch the model before wrapping it, and select weights of patched layers only"
                )
            parameter.spent = True

    def _identity(self, active: list[list[nn.Parameter]]) -> list:
        """Which objects the collected batches hold: they serve as long as these stay the same, and each `Guard` holds.

        Compared before every step, so a list is made of one thing at a time, without a Python call an item.
        """
        identity: list[Any] = [
            list(map(id, self.state.values())),
            list(map(id, chain.from_iterable(map(dict.values, self.state.values())))),
        ]
        for group, parameters in zip(self.param_groups, active, strict=True):
            identity.append((id(group), *(group[key] for key in ("amsgrad", "maximize", "decay_to", "capturable"))))
            identity.append(list(map(id, parameters)))
            identity.append([id(p.dense) for p in parameters if type(p) is Values])
        return identity

    def _collect(self, active: list[list[nn.Parameter]]) -> None:
        for batch in self._batches:
            self._versions.update(batch.versions())
        batches: dict[tuple, Batch] = {}
        pairs = ((group, p) for group, parameters in zip(self.param_groups, active, strict=True) for p in parameters)
        for i, (group, parameter) in enumerate(pairs):
            if isinstance(parameter, Values) and parameter.dense is None:
                raise RuntimeError(
                    "SparseAdamW: the model has been restored, and compact values no longer reach it; patch it again, "
                    "and make an optimizer of its parameters"
                )
            check_memory("SparseAdamW", "a parameter", parameter)
            key = parameter.device, group["amsgrad"], group["maximize"], group["capturable"]
            batch = batches.setdefault(key, Batch(*key))
            batch.add(i, parameter, self._state(parameter, group), group)
        self._batches = list(batches.values())
        for batch in self._batches:
            batch.recall_versions(self._versions)
        self._hooked = [p for group in self.param_groups for p in group["params"] if isinstance(p, Values) and p.hooked]

    def _state(self, parameter: nn.Parameter, group: dict) -> dict:
        state = self.state[parameter]
        wide = torch.float32 if parameter.dtype in LOW_PRECISION else parameter.dtype
        if not state:
            state["step"] = torch.zeros((), device=parameter.device if group["capturable"] else "cpu")
            state["exp_avg"] = torch.zeros_like(parameter, dtype=wide, memory_format=torch.contiguous_format)
            state["exp_avg_sq"] = torch.zeros_like(state["exp_avg"])
            if group["amsgrad"]:
                state["max_exp_avg_sq"] = torch.zeros_like(state["exp_avg"])
        for name, tensor in state.items():
            if not isinstance(tensor, Tensor):  # a step counter of torch before 2.0
                state[name] = torch.tensor(float(tensor))
                continue
            check_memory("SparseAdamW", f"state {name!r}", tensor)
            if parameter.numel() and not tensor.numel():  # which the op would take for a state that is not asked for
                raise ValueError(f"SparseAdamW: state {name!r} must be of the parameter's shape, got {tuple(tensor.shape)}")
            if not tensor.is_contiguous():  # of torch's AdamW, which keeps a parameter's strides
                state[name] = tensor.contiguous()
        if wide != parameter.dtype and "master" not in state:  # also after a state without one, of torch's AdamW, has been loaded
            state["master"] = parameter.detach().to(wide, memory_format=torch.contiguous_format)
        if group["decay_to"] == "pretrained" and "pretrained" not in state:
            state["pretrained"] = parameter.detach().clone(memory_format=torch.contiguous_format)
        return state

    def load_state_dict(self, state_dict: dict) -> None:
        """As torch's, but state tensors keep the dtype they were saved with: float32 masters stay float32.

        Groups stay capturable or not, as they are here; what either kind has saved, the other continues bit for bit.
        """
        capturable = [group["capturable"] for group in self.param_groups]
        super().load_state_dict(state_dict)
        for group, own in zip(self.param_groups, capturable, strict=True):
            group["capturable"] = own
        saved = (key for group in state_dict["param_groups"] for key in group["params"])
        own = (parameter for group in self.param_groups for parameter in group["params"])
        for key, parameter in zip(saved, own, strict=True):
            for name, value in state_dict["state"].get(key, {}).items():
                if isinstance(value, Tensor):
                    place = self.state[parameter]["step"].device if name == "step" else parameter.device
                    self.state[parameter][name] = value.to(place, copy=True)
