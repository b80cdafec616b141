"""Between a delta of this package and an adapter; to the bit, both ways."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn

from ..delta import Delta
from ..errors import require
from ..fingerprint import fingerprint
from ..models.conform import recipe_of
from ..models.heads import label_names
from ..models.linear import is_linear
from ..models.structure import head_names, matrix_shape, weights
from ..selection import Entries, Selection
from .config import ClmConfig
from .tuner import named_layers


def to_delta(model: PeftModel, adapter_name: str = "default", labels: Iterable[str] | None = None) -> Delta:
    """One adapter of a model, with the modules that it saves whole, as a `Delta`.

    Args:
        model: which holds it.
        adapter_name: its name.
        labels: label names in order; from the model's config by default.

    Raises:
        ValueError: if there is no such adapter, or it is of another type.
    """
    config = model.peft_config.get(adapter_name)
    require(isinstance(config, ClmConfig), "to_delta", "adapter_name", "one with a ClmConfig", repr(adapter_name))
    base = model.get_base_model()
    layers = dict(named_layers(base, [adapter_name]))
    some = {name: layer for name, layer in layers.items() if layer.clm_entries[adapter_name].count}
    selection = Selection((f"{name}.weight", layer.clm_entries[adapter_name].to("cpu")) for name, layer in some.items())
    values = {f"{name}.weight": _copy(layer.clm_values[adapter_name], layer.weight) for name, layer in some.items()}
    marks = {f"{name}.weight": fingerprint(layer.base_values(layer.entries(adapter_name))) for name, layer in some.items()}
    head = {name.replace(".original_module.", ".") for name in head_names(base)}
    whole: dict[str, Tensor] = {}
    for name, layer in layers.items():
        if adapter_name in layer.clm_biases:
            whole[f"{name}.bias"] = _copy(layer.clm_biases[adapter_name], layer.bias)
            marks[f"{name}.bias"] = fingerprint(layer.base_bias)
    for name, wrapper in base.named_modules():
        if isinstance(wrapper, ModulesToSaveWrapper) and adapter_name in wrapper.modules_to_save:
            before = dict(wrapper.original_module.named_parameters())
            for part, parameter in wrapper.modules_to_save[adapter_name].named_parameters():
                whole[f"{name}.{part}"] = _copy(parameter, before[part])
                if f"{name}.{part}" not in head:
                    marks[f"{name}.{part}"] = fingerprint(before[part])
    return Delta(selection, values, whole, marks, label_names(base) if labels is None else labels, recipe_of(base))


def from_delta(model: nn.Module, delta: Delta, adapter_name: str = "default", **options: Any) -> PeftModel:
    """A model with a delta as its adapter; what the delta trained whole is among ``modules_to_save``.

    Args:
        model: the delta's base, with its head's shape; changed as `get_peft_model` changes it.
        delta: whose whole parameters must be biases of linear layers, all of those whose weights are selected or none, and whole
            modules, as the head and norms are.
        adapter_name: of the adapter.
        options: further fields of `ClmConfig`, as ``task_type``.

    Raises:
        ValueError: if the model is another base, or the delta holds what an adapter cannot: new tokens, other biases,
            other pooling or attention than the model's.
    """
    require(delta.extension is None, "from_delta", "delta", "one without new tokens", "one that has some")
    _same_reading(model, delta)
    delta._check(model, weights(model))
    selection = delta.selection | _of_biases_alone(model, delta)
    biases = _biases(model, selection, delta)
    modules = _whole_modules(model, delta.whole.keys() - biases)
    config = ClmConfig(selection=selection, biases=bool(biases), modules_to_save=list(modules) or None, **options)
    made = get_peft_model(model, config, adapter_name)
    base = made.get_base_model()
    with torch.no_grad():
        for name, layer in named_layers(base, [adapter_name]):
            if f"{name}.weight" in delta.values:
                layer.clm_values[adapter_name].copy_(delta.values[f"{name}.weight"])
            if f"{name}.bias" in biases:
                layer.clm_biases[adapter_name].copy_(delta.whole[f"{name}.bias"])
        for name in modules:
            for part, parameter in base.get_submodule(name).modules_to_save[adapter_name].named_parameters():
                parameter.copy_(delta.whole[f"{name}.{part}"])
    return made


def _copy(tensor: Tensor, like: Tensor) -> Tensor:
    return tensor.detach().to("cpu", like.dtype, copy=True)


def _same_reading(model: nn.Module, delta: Delta) -> None:
    own = recipe_of(model)
    for field in ("pooling", "bidirectional", "mix_layers"):
        wanted, got = getattr(delta.recipe, field), getattr(own, field)
        require(not wanted or wanted == got, "from_delta", f"the model's {field}", f"{wanted!r}, as in training", repr(got))


def _of_biases_alone(model: nn.Module, delta: Delta) -> Selection:
    """No entries of each linear layer of which the delta trained the bias and nothing of the weight, as a pooler's."""
    found = {}
    for name, module in model.named_modules():
        trained = f"{name}.bias" in delta.whole and f"{name}.weight" not in delta.whole.keys() | delta.selection.keys()
        if trained and is_linear(module):
            found[f"{name}.weight"] = Entries.of("rows", [], matrix_shape(module))
    return Selection(found)


def _biases(model: nn.Module, selection: Selection, delta: Delta) -> set[str]:
    """The biases of the layers whose weights are selected, which are trained all or none."""
    named = weights(model)
    there = {bias for name in selection if (bias := f"{name.removesuffix('.weight')}.bias") in named}
    left = sorted(there - delta.whole.keys())
    expected = "one that trained all biases of its layers or none"
    require(left in ([], sorted(there)), "from_delta", "delta", expected, f"one without {left[:1]}")
    return there - set(left)


def _whole_modules(model: nn.Module, names: Iterable[str]) -> list[str]:
    """The modules whose parameters these are."""
    trained = set(names)
    modules = sorted({name.rpartition(".")[0] for name in trained})
    for module in modules:
        left = sorted({f"{module}.{part}" for part, _ in model.get_submodule(module).named_parameters()} - trained)
        require(not left, "from_delta", "delta", "one that trained whole modules whole", f"one that left out {left[:1]}")
    return modules
