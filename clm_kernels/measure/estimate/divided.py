"""What a base that several processes hold together takes of each: memory and exchanged bytes, from the config alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from torch import nn
from transformers import PretrainedConfig

from ...defaults import LENGTH
from ...errors import require
from ...finetune.config import TrainConfig
from ...patching.sharding import gathered_again, parts_of
from ...values import Values
from ..subject import build, prepare, resolved
from .ledger import size_of


@dataclass(frozen=True)
class Divided:
    """Bytes of one process of several that hold a base together, as `shard` divides it.

    Attributes:
        processes: how many there are.
        shards: its rows of every frozen weight, filled up to as many as any other process has.
        trained: compact values, their indices, and parameters that are trained whole: on every process.
        gathered: whole weights at a time, at most: what stands beside the layers, one layer, and the next, on its way.
        forward: of the whole weights that a forward gathers.
        backward: of those that a backward gathers again: the layers from the lowest that trains on.
        reduced: of the gradients that a step averages.
    """

    processes: int
    shards: int
    trained: int
    gathered: int
    forward: int
    backward: int
    reduced: int

    @property
    def weights(self) -> int:
        """What weights and values take of a process, at most."""
        return self.shards + self.trained + self.gathered

    @property
    def received(self) -> float:
        """What a process receives in a step, and sends: of gathered weights the others' parts, of gradients twice that (ring)."""
        others = (self.processes - 1) / self.processes
        return others * (self.forward + self.backward + 2 * self.reduced)

    def as_dict(self) -> dict[str, int | float]:
        return asdict(self) | {"weights": self.weights, "received": self.received}


def divided(model: PretrainedConfig, config: TrainConfig, processes: int, length: int = LENGTH) -> Divided:
    """What `shard` would do with a model that the method sparse trains; nothing of it is allocated.

    Args:
        model: config of the model; its weights are not read.
        config: as `estimate` takes it.
        processes: how many hold the base together.
        length: tokens a text.

    Raises:
        ValueError: for arguments out of range, another method than sparse, or a model without one stack of layers.
    """
    require(processes >= 1, "estimate", "processes", "1 or more", processes)
    method = config.training.method
    require(method == "sparse", "estimate", "fsdp", "left out with another method than sparse", repr(method))
    made = build(model, resolved(config, model, length, "estimate"), "meta")
    handle = prepare(made, resolved(config, model, length, "estimate")).handle
    return of_handle(handle.model, processes)


def of_handle(model: nn.Module, processes: int) -> Divided:
    """What it takes to divide a patched model."""
    kept = {id(p) for p in model.parameters() if not p.requires_grad and p.dim()}
    trained = [p for p in model.parameters() if id(p) not in kept]
    parts, again = parts_of(model), gathered_again(model)
    sizes = {part: filled_up(part, kept, processes) for part in parts}
    whole = filled_up(model, kept, processes)
    beside, largest = whole - sum(sizes.values()), max(sizes.values(), default=0)
    index = size_of(p.entries._held for p in trained if isinstance(p, Values))
    gradients = sum(p.nbytes for p in trained if p.requires_grad)
    return Divided(
        processes, whole // processes, size_of(trained) + index, gathered=beside + 2 * largest, forward=whole,
        backward=sum(sizes[part] for part in again), reduced=gradients,
    )  # fmt: skip


def filled_up(module: nn.Module, kept: set[int], processes: int) -> int:
    """Bytes of a module's divided weights, each of so many rows that every process has the same number."""
    found = {id(p): p for p in module.parameters() if id(p) in kept}.values()
    return sum(-(-p.shape[0] // processes) * processes * (p.nbytes // max(1, p.shape[0])) for p in found)
