"""Adapted layers: linear ones and embeddings, with any number of adapters, of which each holds values of selected entries."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from .. import ops
from ..errors import refuse, require
from ..models.linear import is_conv1d
from ..patching.layers import autocast_dtype, layer_for
from ..selection import Entries
from .config import ClmConfig
from .functions import AdaptedEmbedding, AdaptedLinear, Use, added
from .stored import base_mark, layout_tensor, read_entries


class ClmLayer(BaseTunerLayer, nn.Module):
    """A frozen layer and its adapters' values.

    The base's weight is never written but by `merge`, and `unmerge` copies back what stood there. An adapter that is active and
    not merged is written into a copy of the weight, in each forward and, for the input's gradient, in each backward.

    Attributes:
        base_layer: the layer.
        clm_values: adapter -> new values of its entries, compact, trained.
        clm_biases: adapter -> its bias, whole, if it trains one.
        clm_index, clm_layout: adapter -> which entries these are, as its file holds them.
        clm_mark: adapter -> a mark of what the base holds there, see `base_mark`.
        clm_entries: adapter -> the same as `Entries`.
    """

    adapter_layer_names = ("clm_values", "clm_biases")
    other_param_names = ("clm_index", "clm_layout", "clm_mark", "clm_entries")

    def __init__(self, base_layer: Any, where: str):
        super().__init__()
        _refuse(base_layer, where)
        self.base_layer, self.where = base_layer, where
        self.clm_values, self.clm_biases = nn.ParameterDict(), nn.ParameterDict()
        self.clm_index, self.clm_layout, self.clm_mark = (BufferDict(persistent=True) for _ in range(3))
        self.clm_entries: dict[str, Entries] = {}
        self.merged_adapters: list[str] = []
        self._disable_adapters = False
        self._replaced: list[tuple[Entries, Tensor]] = []  # by the merged adapters, in order
        self._base_bias: Tensor | None = None  # while merged adapters changed it
        self.register_load_state_dict_post_hook(_follow_buffers)

    @property
    def in_features(self) -> int:
        """Of the base layer; an embedding's is the number of its rows."""
        shape = tuple(self.weight.shape)
        return shape[0] if self._stored_in_out else shape[1]

    @property
    def out_features(self) -> int:
        """Of the base layer."""
        shape = tuple(self.weight.shape)
        return shape[1] if self._stored_in_out else shape[0]

    @property
    def _stored_in_out(self) -> bool:
        return isinstance(self.base_layer, nn.Embedding) or is_conv1d(self.base_layer)

    def entries(self, adapter: str) -> Entries:
        """An adapter's entries, on the weight's device."""
        found = self.clm_entries[adapter] = self.clm_entries[adapter].to(self.weight.device)
        return found

    def base_values(self, entries: Entries) -> Tensor:
        """What the base holds there, compact, merged adapters or not."""
        weight = self.weight.detach()
        if self.merged:
            weight = weight.clone()
            self._put_back(weight)
        return ops.gather(weight, entries)

    @property
    def base_bias(self) -> Tensor | None:
        """The base's bias, if it has one, merged adapters or not."""
        return getattr(self.base_layer, "bias", None) if self._base_bias is None else self._base_bias

    def add_adapter(self, adapter: str, entries: Entries, config: ClmConfig) -> None:
        """A further adapter, inactive until it is set. It begins as the base, or, for tests, beside it."""
        weight = self.weight
        self.check_fit(entries)
        if weight.is_meta:
            values, mark = (
                torch.empty(entries.compact_shape, dtype=weight.dtype, device="meta"),
                torch.zeros(16, dtype=torch.uint8),
            )
        else:
            values = self.base_values(entries.to(weight.device))
            mark = base_mark(values)
        if not config.init_weights:
            values = values + torch.randn_like(values)
        self.hold(adapter, entries, mark)
        self.clm_values[adapter] = nn.Parameter(values)
        if config.biases and (bias := self.base_bias) is not None:
            self.clm_biases[adapter] = nn.Parameter(bias.detach().clone())
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def check_fit(self, entries: Entries) -> None:
        """Raises ValueError for entries of another shape than the weight's, or, of an embedding, of another kind than rows."""
        shape, what = tuple(self.weight.shape), f"entries of {self.where!r}"
        require(entries.shape == shape, "ClmModel", f"the {what}", f"those of a weight of shape {shape}", entries.shape)
        by_rows = entries.kind == "rows" or not isinstance(self.base_layer, nn.Embedding)
        require(by_rows, "ClmModel", f"the kind of {what}", "rows, as it is an embedding", repr(entries.kind))

    def hold(self, adapter: str, entries: Entries, mark: Tensor) -> None:
        """Takes these entries for the adapter's."""
        device = None if self.weight.is_meta else self.weight.device
        self.clm_entries[adapter] = entries
        self.clm_index[adapter] = entries.index.to(device)
        self.clm_layout[adapter] = layout_tensor(entries).to(device)
        self.clm_mark[adapter] = mark.to(device)

    def resize(self, adapter: str, entries: Entries, mark: Tensor) -> None:
        """The same for entries that a file tells, whose values are about to be read."""
        self.hold(adapter, entries, mark)
        old = self.clm_values[adapter]
        if old.shape != entries.compact_shape:
            self.clm_values[adapter] = nn.Parameter(old.new_empty(entries.compact_shape), requires_grad=old.requires_grad)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Writes adapters' values into the base's weight; what stood there is kept, compact.

        Args:
            safe_merge: write nothing if a value is not finite.
            adapter_names: which; the active ones by default.

        Raises:
            ValueError: if a value is not finite and `safe_merge` is asked for.
        """
        names = [name for name in check_adapters_to_merge(self, adapter_names) if name in self.clm_values]
        weight = self.weight.detach()
        for name in names:
            own = [each[name] for each in (self.clm_values, self.clm_biases) if name in each]
            if safe_merge and not all(
                torch.isfinite(tensor).all() for tensor in own
            ):  # in PEFT's words, which its users look for
                raise ValueError(f"NaNs detected in the merged weights. The adapter {name} seems to be broken, at {self.where!r}")
        for name in names:
            entries, values = self.entries(name), self.clm_values[name].detach()
            now = ops.gather(weight, entries)
            base = self.base_values(entries) if self.merged else now
            ops.scatter_(weight, entries, added(now, base, values))
            self._replaced.append((entries, now))
            self._merge_bias(name)
            self.merged_adapters.append(name)

    def _merge_bias(self, name: str) -> None:
        if name in self.clm_biases:
            bias: Any = self.base_layer.bias.detach()
            self._base_bias = bias.clone() if self._base_bias is None else self._base_bias
            bias.copy_(added(bias, self._base_bias.to(bias), self.clm_biases[name]))

    def unmerge(self) -> None:
        """Gives the base's weight its bits back."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        self._put_back(self.weight.detach())
        if self._base_bias is not None:
            self.base_layer.bias.detach().copy_(self._base_bias)
        self._base_bias = None
        self._replaced.clear()
        self.merged_adapters.clear()

    def _put_back(self, weight: Tensor) -> None:
        for entries, former in reversed(self._replaced):
            ops.scatter_(weight, entries.to(weight.device), former.to(weight))

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The base layer's output, with the values of the active adapters in its weight."""
        if self.disable_adapters and self.merged:
            self.unmerge()
        names = [name for name in self.active_adapters if name in self.clm_values]
        if self.disable_adapters or self.merged or not names:
            return self.base_layer(x, *args, **kwargs)
        return self._adapted(x, names)

    def _adapted(self, x: Tensor, names: Sequence[str]) -> Tensor:
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"clm.{super().__repr__()}"


class ClmLinear(ClmLayer):
    """An adapted ``nn.Linear`` or transformers' ``Conv1D``."""

    def _adapted(self, x: Tensor, names: Sequence[str]) -> Tensor:
        dtype, bias = autocast_dtype(x), self._bias(names)
        x, bias = (each if dtype is None or each is None else each.to(dtype) for each in (x, bias))
        use = Use([self.entries(name) for name in names], is_conv1d(self.base_layer), dtype)
        values = [self.clm_values[name] for name in names]
        return AdaptedLinear.apply(use, x, self.weight, bias, *values).view(*x.shape[:-1], self.out_features)

    def _bias(self, names: Sequence[str]) -> Tensor | None:
        """The base's bias, or the active adapters' one, or, of several, the base's with the sum of their changes."""
        base, own = self.base_layer.bias, [self.clm_biases[name] for name in names if name in self.clm_biases]
        if not own:
            return base
        return (own[0] if len(own) == 1 else base + sum(each - base for each in own)).to(base.dtype)


class ClmEmbedding(ClmLayer):
    """An adapted ``nn.Embedding``, of which some rows are trained."""

    def _adapted(self, x: Tensor, names: Sequence[str]) -> Tensor:
        entries, values = [self.entries(name) for name in names], [self.clm_values[name] for name in names]
        y = AdaptedEmbedding.apply(entries, x, self.weight, self.base_layer.padding_idx, *values)
        return y.view(*x.shape, self.out_features)


def adapted(base_layer: nn.Module, where: str) -> ClmLayer:
    """The layer to put in place of `base_layer`.

    Raises:
        ValueError: for a layer whose forward nobody here knows.
    """
    return (ClmEmbedding if isinstance(base_layer, nn.Embedding) else ClmLinear)(base_layer, where)


def _refuse(layer: nn.Module, where: str) -> None:
    rows = Entries.of("rows", [], (1, 1))
    expected = "an nn.Linear, an nn.Embedding or transformers' Conv1D with a forward of its own class"
    known = not isinstance(layer, BaseTunerLayer) and layer_for(layer, "weight", rows) is not None
    require(known, "ClmModel", f"the target {where!r}", expected, type(layer).__name__)
    if is_parametrized(layer):
        refuse("ClmModel", f"the target {where!r}", "without parametrizations", type(layer).__name__)
    require(getattr(layer, "max_norm", None) is None, "ClmModel", f"the target {where!r}", "an embedding without max_norm", layer)
    weight: Any = layer.weight
    plain = type(weight) is nn.Parameter and weight.is_floating_point() and weight.is_contiguous()
    require(plain, "ClmModel", f"the weight of {where!r}", "a plain, contiguous floating-point parameter", f"{type(weight).__name__} of {weight.dtype}")  # fmt: skip


def _follow_buffers(layer: ClmLayer, _: Any) -> None:
    """After a state dict has been read: the entries are those of the buffers."""
    for adapter, held in layer.clm_entries.items():
        index, layout = layer.clm_index[adapter], layer.clm_layout[adapter]
        if not (torch.equal(index.cpu(), held._held.cpu()) and torch.equal(layout.cpu(), layout_tensor(held))):
            entries = read_entries(index, layout, layer.where)
            layer.check_fit(entries)
            layer.clm_entries[adapter] = entries
