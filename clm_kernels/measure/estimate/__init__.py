"""What a training step will take, before any weight is read: the step itself, run on tensors without data."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.optim import Optimizer
from transformers import PretrainedConfig

from ...defaults import ACTIVE_SHARE, LENGTH
from ...errors import require
from ...finetune.config import TrainConfig
from ...values import Values
from ..subject import batch, build, prepare, resolved
from .kernels import KernelsOf
from .ledger import Ledger, size_of
from .operations import flops
from .sharing import share_of

__all__ = ["Estimate", "estimate"]


@dataclass(frozen=True)
class Estimate:
    """Bytes at the moment of a step when it takes the most, by purpose, and its operations.

    Attributes:
        weights: parameters, buffers and the selected entries' indices.
        optimizer_state: of AdamW, without the masters.
        masters: float32 values of what is trained in bf16.
        gradients: those that are there at that moment.
        activations: what the forward pass leaves for the backward pass, and is not freed yet at that moment.
        workspace: all else: what operations pass on to each other, and layers that are computed again.
        trained: how many numbers are trained.
        flops: of the products in a forward and a backward pass, recomputation included.
        active_share: share of the tokens that `flops` takes as active in the backward; None where every token takes part.
        examples_share: with a cost, share of the examples that are read in each epoch after the first; else None.
    """

    weights: int
    optimizer_state: int
    masters: int
    gradients: int
    activations: int
    workspace: int
    trained: int
    flops: int
    active_share: float | None = None
    examples_share: float | None = None

    @property
    def peak(self) -> int:
        """The most bytes that there are at a time."""
        return self.weights + self.optimizer_state + self.masters + self.gradients + self.activations + self.workspace

    def as_dict(self) -> dict[str, int | float | None]:
        return asdict(self) | {"peak": self.peak}


def estimate(
    model: PretrainedConfig,
    config: TrainConfig | None = None,
    length: int = LENGTH,
    device: str = "cpu",
    active_share: float = ACTIVE_SHARE,
) -> Estimate:
    """Runs two training steps on the meta device and counts what there is in the second one.

    Seen are all tensors of the model, autograd and the optimizer, as torch's allocator would see them; not what a kernel
    takes for itself, a CUDA context, or memory that an allocator keeps in reserve.

    Args:
        model: config of the model; its weights are not read.
        config: method, selection, batch size and all else by which `train` makes a model ready, with its defaults; the task
            ``"auto"`` is sequence classification, the dtype ``"auto"`` what the model's config names, else float32. Of the dtype are
            weights and arithmetic.
        length: tokens a text, padding included.
        device: whose kernels for attention and dropout are assumed: ``"cpu"`` or ``"cuda"``.
        active_share: part of the tokens that each linear layer whose energy is below 1 is assumed to keep in its backward: it
            depends on texts, labels and how far the model has learnt, and is known of a run alone (`Report.active`). Memory
            does not depend on it, as nobody knows in the forward pass which tokens these will be. With a cost it is the share
            that keeps to it, whatever is given here.

    Raises:
        ValueError: for arguments out of range, or a model that does not run on such batches.
        NotInstalled: for LoRA without peft.
    """
    require(0 < active_share <= 1, "estimate", "active_share", "in (0, 1]", active_share)
    config = resolved(config or TrainConfig(), model, length, "estimate")
    require(config.selecting.kind != "elements", "estimate", "kind", "units of several entries, or groups", "'elements'")
    examples_share = None
    if config.training.cost is not None:
        with KernelsOf(device), Ledger():
            active_share = examples_share = share_of(
                model, config, length, lambda called, inputs: _backward(called(**inputs).loss)
            )
    prepared = prepare(build(model, config, "meta"), config)
    called, optimizer = prepared.model, prepared.optimizer
    inputs = batch(config, length, "meta")
    owned = [*called.parameters(), *called.buffers(), *(p.entries._held for p in called.parameters() if isinstance(p, Values))]
    weights = size_of(owned)

    def step() -> None:
        _backward(called(**inputs).loss)

    with KernelsOf(device), Ledger([*owned, *inputs.values()]) as ledger:
        try:
            operations = flops(step, active_share)  # makes the gradients that the optimizer makes its state for
        except (RuntimeError, NotImplementedError, IndexError, TypeError) as error:
            size = f"{config.training.batch_size} texts of {length} tokens"
            raise ValueError(f"estimate: the model must run without data on {size}, got: {error}") from error
        optimizer.step()
        optimizer.zero_grad()
        start = len(ledger.entries)
        loss = called(**inputs).loss
        between = len(ledger.entries)
        _backward(loss)
        at_peak = ledger.alive(ledger.fullest(start), start)
        gradients = {ledger.number(p.grad) for p in _trained(optimizer) if p.grad is not None}
    kept = ledger.alive(between, start).keys() - gradients
    parts = {"gradients": 0, "activations": 0, "workspace": size_of(inputs.values())}
    for number, size in at_peak.items():
        parts["gradients" if number in gradients else "activations" if number in kept else "workspace"] += size
    trained, assumed = sum(p.numel() for p in _trained(optimizer)), active_share if prepared.active else None
    left_out = {"active_share": assumed, "examples_share": examples_share}
    return Estimate(weights, *_state(optimizer), **parts, trained=trained, flops=operations, **left_out)


def _backward(loss: Tensor) -> None:
    """`loss.backward()`, which would leave `KernelsOf`, also for layers that are computed again."""
    torch.autograd.backward(get_gradient_edge(loss), torch.ones_like(loss))


def _trained(optimizer: Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _state(optimizer: Optimizer) -> tuple[int, int]:
    """Bytes of the optimizer's state without masters, and of these."""
    tensors = [(name, value) for state in optimizer.state.values() for name, value in state.items() if isinstance(value, Tensor)]
    masters = size_of(value for name, value in tensors if name == "master")
    return size_of(value for _, value in tensors) - masters, masters
