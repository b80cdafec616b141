"""`shard`: divides a patched model's frozen weights over processes by FSDP2; what is trained stays whole in each."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from ..errors import refuse, require
from ..fingerprint import fingerprint
from ..models.structure import depths, input_embedding, layers_of, weights
from ..selection import Entries
from ..shards import Shard
from ..values import Values
from . import Handle
from .layers import Compact, CompactLayer
from .reduction import Reduction

__all__ = ["Sharded", "shard"]


def shard(handle: Handle, mesh: DeviceMesh | None = None) -> Sharded:
    """Divides the frozen weights of a patched model over processes, so that each holds its rows of every weight alone.

    FSDP2's ``fully_shard`` gathers the weights of a layer before they are used and frees them after. What is trained, compact
    values and parameters trained whole, stays on every process; its gradients are averaged over all at the end of each
    backward, and `SparseAdamW` writes the selected entries into the rows that its process holds. So a plain loop trains as
    one process would with all processes' batches, and `Handle.delta` gives the same delta on each, read from the shards;
    all processes must call it.

    It cannot be undone: after ``handle.restore()`` the model is one of FSDP2, with the trained weights.

    Args:
        handle: what `patch` gave; the same base, selection and head on every process. Moved to the mesh's device, layer by layer.
        mesh: of one dimension; by default all processes of ``torch.distributed``.

    Returns:
        Sharded, which says what a process holds, and puts the reduction off while gradients accumulate.

    Raises:
        ValueError: for a mesh of several dimensions, a model without one stack of layers, a selected weight whose compact
            gradient no patched layer makes, or another base or selection on some process.
        RuntimeError: without an initialised ``torch.distributed``, or for a handle that is restored or sharded already.
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise RuntimeError("shard: torch.distributed must be initialised (init_process_group, which torchrun prepares)")
    if not handle.patched or handle.sharded is not None:
        state = "divided already" if handle.patched else "restored"
        raise RuntimeError(f"shard: the handle must be of a patched, whole model, got one that is {state}")
    mesh = _mesh() if mesh is None else mesh
    require(mesh.ndim == 1, "shard", "mesh", "of one dimension (FSDP2 without replicas)", f"{mesh.ndim}")
    _check(handle)
    _check_alike(handle, mesh.get_group())
    handle.sharded = Sharded(handle, mesh)
    return handle.sharded


class Held(NamedTuple):
    """Bytes of one process, and of the whole model.

    Attributes:
        shards: this process's rows of the divided weights, with what FSDP2 fills them up with.
        trained: compact values and parameters that are trained whole.
        base: all of the model's own parameters, as one process would hold them.
    """

    shards: int
    trained: int
    base: int


class Sharded:
    """What `shard` did to a model.

    Attributes:
        handle: what `patch` gave.
        mesh: the processes.
        held: the bytes that this process holds of weights between steps.
        shards: name of each selected weight -> this process's part of it.
    """

    def __init__(self, handle: Handle, mesh: DeviceMesh):
        model = handle.model
        base = {id(weight): weight.nbytes for weight in weights(model).values() if not isinstance(weight, Values)}
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        whole = [*trained, *(parameter for parameter in model.parameters() if not parameter.dim())]  # FSDP2 divides rows
        self.handle, self.mesh = handle, mesh
        _move(model, whole, mesh)
        _divide(model, mesh, set(whole))
        self.shards: dict[str, Shard] = {}
        for name, values in handle.values.items():
            if values.shard is None:  # else tied to one that came first
                values.dense, values.shard = model.get_parameter(name), _shard(model, name, values.entries, mesh)
            self.shards[name] = values.shard
        divided = {id(p): p for p in model.parameters() if isinstance(p, DTensor)}.values()
        shards = sum(parameter.to_local().untyped_storage().nbytes() for parameter in divided)
        self.held = Held(shards, sum(parameter.nbytes for parameter in whole), sum(base.values()))
        self._reduction = Reduction(trained, mesh.get_group())

    @property
    def exchanged(self) -> int:
        """Bytes of gradients that this process has handed over to be averaged, at the end of the last backward that was."""
        return self._reduction.exchanged

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Backwards inside leave their gradients to be averaged by a later one, as DDP's ``no_sync``."""
        with self._reduction.put_off():
            yield

    def release(self) -> None:
        """Ends the reduction, as ``handle.restore()`` does."""
        self._reduction.remove()


def _mesh() -> DeviceMesh:
    device = torch.accelerator.current_accelerator(check_available=True)
    return init_device_mesh(device.type if device else "cpu", (dist.get_world_size(),))


def _check(handle: Handle) -> None:
    """Raises ValueError for what cannot be trained while it is divided."""
    for name, values in handle.values.items():
        expected = "of a linear layer or an embedding, whose compact gradient is made directly"
        require(not values.hooked, "shard", repr(name), expected, "a weight whose dense gradient is needed")
    layers_of(handle.model)


def _check_alike(handle: Handle, processes: dist.ProcessGroup) -> None:
    """Raises ValueError, on every process, unless all hold the same values of what is trained, at the same entries."""
    chosen = {name: fingerprint(entries._held) for name, entries in handle.selection.items()}
    every: list[Any] = [None] * processes.size()
    dist.all_gather_object(every, (chosen, handle.originals, handle.whole), group=processes)
    other = next((rank for rank, found in enumerate(every) if found != every[0]), None)
    if other is not None:
        refuse("shard", "the model and its selection", "the same on every process", f"others on process {other} than on 0")


def _move(model: nn.Module, parameters: list[nn.Parameter], mesh: DeviceMesh) -> None:
    """Brings what stays whole to the mesh's device; FSDP2 brings the rest, a layer at a time."""
    for parameter in parameters:
        parameter.data = parameter.data.to(mesh.device_type)
    for module in model.modules():
        if isinstance(module, CompactLayer) and isinstance(values := module._parameters.get("values"), Values):
            module._entries = values.entries


def parts_of(model: nn.Module) -> list[nn.Module]:
    """What is gathered by itself: each layer, and the embedding unless it is tied or trained; all else with the model."""
    name, embedding = input_embedding(model)
    once = [other for other, weight in weights(model).items() if weight is weights(model)[name]] == [name]
    return [*([embedding] if once and not isinstance(embedding, Compact) else []), *layers_of(model)]


def gathered_again(model: nn.Module) -> list[nn.Module]:
    """Those of the parts whose weights a backward needs: layers from the lowest that trains on."""
    depth, named = depths(model), {id(weight): name for name, weight in weights(model).items()}
    trained = (depth[named[id(parameter)]] for parameter in model.parameters() if parameter.requires_grad)
    lowest = min(trained, default=math.inf)
    layers = (part for part in parts_of(model) if not isinstance(part, nn.Embedding))
    return [layer for layer in layers if max(depth[named[id(p)]] for p in layer.parameters()) >= lowest]


def _divide(model: nn.Module, mesh: DeviceMesh, whole: set[nn.Parameter]) -> None:
    again = gathered_again(model)
    for module in parts_of(model):
        part = fully_shard(module, mesh=mesh, reshard_after_forward=True, ignored_params=whole)
        part.set_unshard_in_backward(module in again)  # else FSDP2 fetches one more than is needed
    fully_shard(model, mesh=mesh, ignored_params=whole)


def _shard(model: nn.Module, name: str, entries: Entries, mesh: DeviceMesh) -> Shard:
    parent, _, own = name.rpartition(".")
    module, weight = model.get_submodule(parent), model.get_parameter(name)
    assert isinstance(weight, DTensor)
    shape, begin = compute_local_shape_and_global_offset(weight.shape, mesh, weight.placements)
    path = parent.split(".") if parent else []
    above = (model.get_submodule(".".join(path[:length])) for length in range(len(path), -1, -1))
    owner = next(found for found in above if isinstance(found, FSDPModule))
    first = min(begin[0], weight.shape[0])
    return Shard(module, own, entries, first, first + shape[0], owner, mesh.get_group())
