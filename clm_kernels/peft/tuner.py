"""`ClmModel`: what PEFT wraps a model in for a `ClmConfig`."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import replace

import torch
from peft.tuners.tuners_utils import BaseTuner
from torch import Tensor, nn

from .. import ops
from ..errors import listed, require
from ..models.structure import depths, read_past_forward, weights
from ..selecting.scores.sensitivity import eligible_weights
from ..selecting.units.control import drawn
from ..selecting.units.dealing import dealt
from ..selection import Entries, Selection
from .config import GIVEN, ClmConfig
from .layers import ClmLayer, adapted
from .registering import PREFIX
from .stored import is_base, read_entries

BASE_LAYER = "base_layer."


class ClmModel(BaseTuner):
    """A model whose target layers hold adapters of selected entries."""

    prefix = PREFIX
    tuner_layer_cls = ClmLayer
    target_module_mapping: dict[str, list[str]] = {}

    def _prepare_adapter_config(self, peft_config: ClmConfig, model_config: dict) -> ClmConfig:
        if isinstance(peft_config.selection, (str, os.PathLike)):
            peft_config.selection = Selection.load(peft_config.selection)
        if peft_config.target_modules is None:
            peft_config.target_modules = self._all_targets(peft_config)
        return super()._prepare_adapter_config(peft_config, model_config)

    def _all_targets(self, config: ClmConfig) -> set[str] | None:
        """The layers that a selection names, or the linear ones in the model's numbered layers, if it has any."""
        try:
            names = list(eligible_weights(self.model) if config.selection is None else config.selection)
        except ValueError:
            return None
        layers = config.layers_to_transform
        if layers is not None:  # which PEFT looks at for parts of names alone
            depth, wanted = depths(self.model), [layers] if isinstance(layers, int) else layers
            names = [name for name in names if depth.get(name) in wanted]
        return {name.replace(BASE_LAYER, "").removesuffix(".weight") for name in names}

    def _prepare_model(self, peft_config: ClmConfig, model: nn.Module) -> None:
        self._generator = torch.Generator().manual_seed(peft_config.seed)
        self._past_forward = read_past_forward(model)
        if peft_config.selection is not None:
            peft_config.selection.check({name.replace(BASE_LAYER, ""): weight for name, weight in weights(model).items()})

    def _create_and_replace(
        self,
        peft_config: ClmConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        called = id(target) not in self._past_forward
        require(called, "ClmModel", f"the target {current_key!r}", "a layer that is called", "one whose weight is read by others")
        layer = target if isinstance(target, ClmLayer) else adapted(target, current_key)
        twice = next((other.where for other in self._layers() if other is not target and other.weight is layer.weight), None)
        alone = "a layer with a weight of its own"
        require(twice is None, "ClmModel", f"the target {current_key!r}", alone, f"one whose weight is that of {twice!r}")
        entries = self._entries(peft_config, current_key, layer)
        layer.add_adapter(adapter_name, entries, peft_config)
        if layer is not target:
            if adapter_name not in self.active_adapters:
                layer.requires_grad_(False)
            else:
                layer.set_adapter(self.active_adapters, inference_mode=peft_config.inference_mode)
            self._replace_module(parent, target_name, layer, target)

    def _entries(self, config: ClmConfig, key: str, layer: ClmLayer) -> Entries:
        rows, columns = layer.weight.shape
        if config.kind == GIVEN:
            if config.selection is None:  # they stand in the file that is read next
                return Entries.of("rows", [], (rows, columns))
            given = config.selection.get(f"{key}.weight")
            require(given is not None, "ClmModel", "target_modules", "layers of which the selection names entries", repr(key))
            return given
        if config.kind == "groups":
            return dealt((rows, columns), round(1 / config.share), self._generator)
        return drawn((rows, columns), config.kind, config.share, (config.block, config.block), self._generator)

    def unload(self) -> nn.Module:
        """The base model without adapters, its weights' bits as before, merged adapters or not."""
        for layer in self._layers():
            if layer.merged:
                layer.unmerge()
        return super().unload()

    def add_weighted_adapter(
        self, adapters: Sequence[str], weights: Sequence[float], adapter_name: str, combination_type: str = "linear"
    ) -> None:
        """A further adapter of the union of several ones' entries, that changes them by the weighted sum of their changes.

        Args:
            adapters: names of those.
            weights: one for each.
            adapter_name: of the new one, which is inactive.
            combination_type: ``"linear"``.

        Raises:
            ValueError: for an unknown adapter, a name that is taken, another combination, or adapters that save modules whole.
        """
        function, known = "add_weighted_adapter", list(self.peft_config)
        adapters = list(adapters)
        require(combination_type == "linear", function, "combination_type", "'linear'", repr(combination_type))
        require(adapter_name not in known, function, "adapter_name", "a new name", repr(adapter_name))
        require(bool(adapters) and set(adapters) <= set(known), function, "adapters", f"of {listed(known)}", adapters)
        require(len(weights) == len(adapters), function, "weights", f"{len(adapters)} numbers", len(weights))
        saved = [name for name in adapters if self.peft_config[name].modules_to_save]
        require(not saved, function, "adapters", "without modules_to_save, whose sum means nothing", saved)
        shares = dict(zip(adapters, weights, strict=True))
        selection = Selection((f"{name}.weight", _union(layer, adapters)) for name, layer in self._named_layers(adapters))
        config = replace(
            self.peft_config[adapters[0]], kind=GIVEN, biases=any(self.peft_config[name].biases for name in adapters), density=None, selection=selection, target_modules=None, exclude_modules=None,
            layers_to_transform=None, layers_pattern=None, init_weights=True,
        )  # fmt: skip
        self.peft_config[adapter_name] = config
        self.inject_adapter(self.model, adapter_name)
        for _, layer in self._named_layers([adapter_name]):
            layer.clm_values[adapter_name].data = _weighted(layer, shares, layer.entries(adapter_name))
            if adapter_name in layer.clm_biases:
                layer.clm_biases[adapter_name].data = _weighted_bias(layer, shares)

    def _layers(self) -> list[ClmLayer]:
        return [module for module in self.model.modules() if isinstance(module, ClmLayer)]

    def _named_layers(self, adapters: Sequence[str]) -> list[tuple[str, ClmLayer]]:
        return named_layers(self.model, adapters)

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: ClmConfig, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Lets every layer hold the entries that a file tells, before their values are read; all are checked first."""
        parts = [(layer, _parts(name, state_dict)) for name, layer in named_layers(model, [adapter_name])]
        found = [(layer, _checked(layer, own), own["mark"]) for layer, own in parts if own]
        _warn_of_another_base(found)
        for layer, entries, mark in found:
            layer.resize(adapter_name, entries, mark)
        return super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)


def named_layers(model: nn.Module, adapters: Sequence[str]) -> list[tuple[str, ClmLayer]]:
    """The layers that hold one of these adapters, by name."""
    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, ClmLayer) and any(adapter in module.clm_entries for adapter in adapters)
    ]


def _union(layer: ClmLayer, adapters: Sequence[str]) -> Entries:
    own = [layer.clm_entries[name].to("cpu") for name in adapters if name in layer.clm_entries]
    union = own[0]
    for entries in own[1:]:
        union = union | entries
    return union


def _weighted(layer: ClmLayer, shares: dict[str, float], entries: Entries) -> Tensor:
    base = layer.base_values(entries)
    dense = torch.zeros(entries.shape, dtype=torch.promote_types(base.dtype, torch.float32), device=base.device)
    for name, share in shares.items():
        if name in layer.clm_entries:
            own = layer.entries(name)
            change = layer.clm_values[name].detach().to(dense) - layer.base_values(own).to(dense)
            dense.view(-1).index_add_(0, own.flat_index().flatten(), share * change.flatten())
    return base.to(dense) + ops.gather(dense, entries)


def _weighted_bias(layer: ClmLayer, shares: dict[str, float]) -> Tensor:
    base = layer.base_bias.detach().float()
    return base + sum(
        share * (layer.clm_biases[name].detach() - base) for name, share in shares.items() if name in layer.clm_biases
    )


def _parts(name: str, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of one layer what a file holds, under its name in a PeftModel or in the model alone."""
    for prefix in ("", "base_model.model."):
        start = f"{prefix}{name}.{PREFIX}"
        if found := {key.removeprefix(start): tensor for key, tensor in state_dict.items() if key.startswith(start)}:
            return found
    return {}


def _checked(layer: ClmLayer, parts: dict[str, Tensor]) -> Entries:
    where = layer.where
    whole = parts.keys() - {"biases"} == {"values", "index", "layout", "mark"}
    require(whole, "ClmModel", f"the adapter's tensors of {where!r}", "values, index, layout and mark", sorted(parts))
    entries = read_entries(parts["index"], parts["layout"], where)
    layer.check_fit(entries)
    values = tuple(parts["values"].shape)
    require(values == entries.compact_shape, "ClmModel", f"the values of {where!r}", f"of shape {entries.compact_shape}", values)
    return entries


def _warn_of_another_base(found: list[tuple[ClmLayer, Entries, Tensor]]) -> None:
    """PEFT lets an adapter be read onto any base of the right shape."""
    other = [
        layer.where
        for layer, entries, mark in found
        if not layer.weight.is_meta and not is_base(mark, layer.base_values(entries.to(layer.weight.device)))
    ]
    if other:
        warnings.warn(
            f"ClmModel: the adapter was trained on another base: {len(other)} of {len(found)} weights hold other values there, "
            f"as {other[0]!r}; what it predicts here nobody knows",
            stacklevel=2,
        )
