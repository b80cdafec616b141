"""Layers with compact gradients: what the class of a patched module is swapped for."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from ..models.linear import conv1d_class
from ..ops.layout import ROWS, Layout
from ..selection import Entries
from ..values import Values
from .active import Active
from .functions import EmbeddingFunction, LinearFunction


class Compact:
    """Hides compact values from checkpoints, and reads them anew whenever the dense weight is loaded.

    Attributes:
        compact: name of each selected parameter of this module -> name of its `Values`.
        replaces: the module's own class.
    """

    compact: dict[str, str]
    replaces: type[nn.Module]

    def __reduce_ex__(self, protocol):
        known = next((known for known, core in compact_classes().items() if isinstance(self, core)), None)
        return _blank, (self.replaces, known), *super().__reduce_ex__(protocol)[2:]  # classes made here have no name to pickle

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name in self.compact.values():
            del destination[prefix + name]

    def _load_from_state_dict(self, *args):
        before = {name: self._parameters[name] for name in self.compact}
        hidden = {name: self._parameters.pop(name) for name in self.compact.values()}
        try:
            super()._load_from_state_dict(*args)
        finally:
            self._parameters.update(hidden)
        self._follow(before)
        for values in hidden.values():
            values.refresh()

    def _follow(self, before: dict[str, nn.Parameter]) -> None:
        """Keeps values and tied weights together where parameters have been replaced, as ``assign=True`` does."""
        for name, compact in self.compact.items():
            values = self._parameters[compact]
            if values.dense is before[name]:
                values.follow(self._parameters[name])
            else:  # the module that it is tied to came first
                self._parameters[name] = values.dense

    def _apply(self, fn, recurse=True):
        before = dict(self._parameters)
        super()._apply(fn, recurse)
        if any(type(self._parameters[name]) is not Values for name in self.compact.values()):
            self._parameters.update(before)
            raise RuntimeError(
                f"{type(self).__name__}: a patched layer can be moved only where its parameters stay the same objects, which torch"
                " does not do for the meta device; restore() the handle first"
            )
        if "_entries" in self.__dict__:
            self._entries = self._parameters["values"].entries
        return self


class CompactLayer(Compact):
    """A `Compact` module whose own forward makes the compact gradient of its `weight`.

    Attributes:
        values: the compact leaf parameter.
    """

    values: Values
    _entries: Entries  # those of the values, where `torch.compile` can follow
    _active: Active | None = None

    @property
    def entries(self) -> Entries:
        """The values' entries, on the weight's device. They must fit the weight, which others may have exchanged."""
        if self._entries.shape != self._parameters["weight"].shape:
            shape = tuple(self._parameters["weight"].shape)
            raise RuntimeError(
                f"{type(self).__name__}: weight must have shape {self._entries.shape} as when it was patched, got {shape}"
            )
        return self._entries

    def _trains(self) -> bool:
        """Whether its compact values get a gradient in this forward."""
        values = self._parameters.get("values")
        return values is not None and values.requires_grad and torch.is_grad_enabled()

    def _makes_gradients(self, x: Tensor) -> bool:
        """Whether the backward of this forward is another than torch's own."""
        return self._trains() or (self._active is not None and x.requires_grad and torch.is_grad_enabled())

    def _selected(self) -> tuple[Values | None, Tensor | None, Layout | None]:
        if not self._trains():
            return None, None, None
        entries = self.entries
        return self._parameters["values"], entries._held, entries.layout

    def _in_compute_dtype(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """x, weight and bias as autocast would cast them (it does not reach into a custom function's backward)."""
        parameters = self._parameters  # without nn.Module's search for attributes, as this runs in every forward
        weight, bias = parameters["weight"], parameters["bias"]
        dtype = autocast_dtype(x)
        if dtype is None:
            return x, weight, bias
        return x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """What autocast would cast the operands of a product with x to; it leaves float64 alone, and there is none for meta tensors."""
    device = x.device.type
    if x.dtype == torch.float64 or x.is_meta or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)


class CompactLinear(CompactLayer, nn.Linear):
    """`nn.Linear` with compact gradients, or those of active tokens, or both."""

    replaces = nn.Linear

    def forward(self, input: Tensor) -> Tensor:
        if not self._makes_gradients(input):
            return super().forward(input)
        x, weight, bias = self._in_compute_dtype(input)
        y = LinearFunction.apply(x, weight, bias, *self._selected(), False, self._active)
        return y.view(*x.shape[:-1], self.out_features)


class CompactEmbedding(CompactLayer, nn.Embedding):
    """`nn.Embedding` with compact gradients of its selected rows."""

    replaces = nn.Embedding

    def forward(self, input: Tensor) -> Tensor:
        if not self._trains():
            return super().forward(input)
        values, entries = self._parameters["values"], self.entries
        y = EmbeddingFunction.apply(input, self.weight, values, entries._held, entries.layout, self.padding_idx)
        return y.view(*input.shape, self.embedding_dim)


@functools.cache
def compact_classes() -> dict[type, type]:
    """Each class whose forward is known -> the class with compact gradients."""
    known = {nn.Linear: CompactLinear, nn.Embedding: CompactEmbedding}
    Conv1D = conv1d_class()
    if Conv1D is None:
        return known

    class CompactConv1D(CompactLayer, Conv1D):
        """transformers' ``Conv1D`` with compact gradients, or those of active tokens, or both."""

        replaces = Conv1D

        def forward(self, x: Tensor) -> Tensor:
            if not self._makes_gradients(x):
                return super().forward(x)
            x, weight, bias = self._in_compute_dtype(x)
            y = LinearFunction.apply(x, weight.T, bias, *self._selected(), True, self._active)
            return y.view(*x.shape[:-1], self.nf)

    return known | {Conv1D: CompactConv1D}


@functools.cache
def swapped_class(original: type, core: type) -> type:
    """What a module of class `original` becomes so that its ``super().forward`` lands in `core`.

    For `Compact` alone, which has no forward, the original's own forward stays.
    """
    if compact_classes().get(original) is core:
        return core
    bases = (Compact, original) if core is Compact else (original, core)
    return type(f"Compact{original.__name__}", bases, {"__module__": original.__module__, "replaces": original})


def _blank(original: type, known: type | None) -> nn.Module:
    """An empty module of the class that `original` is swapped for, to be filled with a pickled or copied state."""
    swapped = swapped_class(original, compact_classes().get(known, Compact))
    return swapped.__new__(swapped)


def own_class(module: nn.Module, original: type) -> type:
    """What a swapped module becomes again; a class that ``fully_shard`` has put before it stays."""
    outer = type(module).__mro__[1]
    if outer.__name__ != "FSDPModule":
        return original
    return type(f"FSDP{original.__name__}", (outer, original), {"__module__": original.__module__})


def layer_for(module: nn.Module, parameter: str, entries: Entries) -> type | None:
    """The compact class that makes this weight's gradient, or None where only the dense gradient is to be had."""
    embedding = isinstance(module, nn.Embedding)
    if parameter != "weight" or (embedding and (entries.layout.kind != ROWS or module.scale_grad_by_freq or module.sparse)):
        return None
    return known_layer(module)


def known_layer(module: nn.Module) -> type[CompactLayer] | None:
    """What the class of a module can be swapped for, or None where its forward is not known."""
    original = type(module)
    known = next((base for base in compact_classes() if isinstance(module, base)), None)
    reaches_known = known and (original.forward is known.forward or "super" in original.forward.__code__.co_names)
    return compact_classes()[known] if reaches_known else None
