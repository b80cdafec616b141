"""The method lora: PEFT's low-rank layers inside the model, whose class, head and pooling stay (Hu et al., arXiv 2106.09685).

The result is an adapter in PEFT's own format, so that PEFT reads it too: its two files, with the head among the tensors.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import listed, require
from ..extras import needs
from ..fingerprint import fingerprint
from ..handles import Undo
from ..models.conform import conform, recipe_of
from ..models.folders import read_adapter_config, refusing
from ..models.plain_head import pooler_names
from ..models.roles import PROJECTIONS, is_fused, role_of
from ..models.structure import head_names, weights
from ..recipe import Recipe
from ..selecting.scores.sensitivity import eligible_weights
from ..strangers import brief, fits, inside, parse_json
from ..tensors import read_tensors, write_tensors
from .artifacts import ADAPTER, ADAPTER_CONFIG
from .models import Loaded
from .tasks import TASKS

PREFIX = "base_model.model."  # of every tensor's name in PEFT's files


def targets(model: nn.Module, wanted: str = "query,value", layers: str = "all") -> list[str]:
    """Full names of the linear modules that get an adapter, all of them in the model's layers.

    Args:
        wanted: ``"all-linear"``, or what to adapt, separated by commas: ``query``, ``key`` and ``value`` by what they are,
            whatever the model calls them, and its fused weight where it has one weight for the three; or the ends of
            modules' names.
        layers: which layers' weights are eligible: ``"all"``, ``"upper half"`` or ``"upper third"``.

    Raises:
        ValueError: if the model has no such module.
    """
    names = [name.removesuffix(".weight") for name in eligible_weights(model, layers)]
    if wanted == "all-linear":
        return names
    found: set[str] = set()
    for item in filter(None, map(str.strip, wanted.split(","))):
        matching = _of_role(names, item) if item in PROJECTIONS else [n for n in names if f".{n}".endswith(f".{item}")]
        ends = dict.fromkeys(name.rpartition(".")[2] for name in names)
        expected = f"'all-linear', 'query', 'key', 'value' or names like {listed(ends)} of {type(model).__name__}"
        require(bool(matching), "train", "lora_targets", expected, repr(item))
        found.update(matching)
    return [name for name in names if name in found]


def _of_role(names: list[str], role: str) -> list[str]:
    attention = [name for name in names if "att" in name.lower()]
    return [name for name in attention if role_of(name) == role] or [name for name in attention if is_fused(name)]


def adapt(model: nn.Module, head: bool | Iterable[str], peft_config: Any) -> Undo:
    """Puts PEFT's layers for this config into the model, in place; they and the head train, nothing else does.

    The adapter has the model's dtype. Modules get inner names, ``x.base_layer`` and ``x.lora_A.default``; class, config and
    hooks of the model stay, which is why this is no `get_peft_model`.

    Returns:
        A handle, whose `restore` takes the layers out without adding them to the weights.
    """
    from peft import inject_adapter_in_model

    before = {name: parameter.requires_grad for name, parameter in weights(model).items()}
    named = weights(model)
    trained = [named[name] for name in (head_names(model) if head is True else head or ())]
    undo = Undo(model, partial(_take_out, trained=before))
    with ExitStack() as failed, refusing("adapt", "target_modules", "names of linear modules of the model"):
        failed.callback(undo.restore)
        inject_adapter_in_model(peft_config, model)
        failed.pop_all()
    for parameter in trained:
        parameter.requires_grad_(True)
    return undo


def _take_out(model: nn.Module, trained: dict[str, bool]) -> None:
    _remove_layers(model)
    for name, parameter in weights(model).items():
        parameter.requires_grad_(trained.get(name, parameter.requires_grad))


def fold(model: nn.Module) -> None:
    """Adds every adapter to the weight that it stands beside, and takes its layers out; nothing to do without any."""
    for layer in _lora_layers(model).values():
        layer.merge()
    _remove_layers(model)


def _remove_layers(model: nn.Module) -> None:
    for name, layer in _lora_layers(model).items():
        model.set_submodule(name, layer.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config


def _lora_layers(model: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in model.named_modules() if hasattr(module, "lora_A") and hasattr(module, "merge")}


@dataclass
class Adapter:
    """What the method lora leaves behind: PEFT's config and tensors, the head among them, and how it was made.

    Attributes:
        config: PEFT's ``LoraConfig``.
        tensors: by the names that PEFT gives them in its files.
        originals: name of each adapted weight -> fingerprint of what the base must hold there.
        labels: label names in order.
        recipe: how it was made, and is to be used, as in a `Delta`.
    """

    config: Any
    tensors: dict[str, Tensor]
    originals: dict[str, str]
    labels: list[str]
    recipe: Recipe

    @classmethod
    def of(cls, loaded: Loaded, labels: list[str], recipe: Recipe) -> Adapter:
        """What a model adapted by `adapt` holds now."""
        config = copy.copy(loaded.model.peft_config["default"])
        config.task_type, config.inference_mode = TASKS[recipe.task].peft, True
        config.modules_to_save = _modules_of(loaded.model, loaded.head)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in _tensors(loaded.model, loaded.head).items()}
        layers = _lora_layers(loaded.model)
        originals = {f"{name}.weight": fingerprint(layer.get_base_layer().weight) for name, layer in layers.items()}
        return cls(config, tensors, originals, labels, recipe_of(loaded.model, recipe))

    def save(self, folder: Path) -> None:
        """Writes PEFT's two files into an existing folder."""
        metadata = {"format": "pt", "labels": json.dumps(self.labels), "recipe": self.recipe.to_json()}
        write_tensors(folder / ADAPTER, self.tensors, metadata | {"originals": json.dumps(self.originals)})
        self.config.save_pretrained(folder)

    @classmethod
    def load(cls, folder: Path) -> Adapter:
        """Reads what `save` wrote, and checks it.

        Raises:
            ValueError: if a file is missing, altered, or of another program.
            NotInstalled: without peft.
        """
        needs("peft", "Adapter.load")
        path = folder / ADAPTER
        complete = (folder / ADAPTER_CONFIG).is_file()
        require(complete, "Adapter.load", repr(str(folder)), f"a folder with {ADAPTER_CONFIG}", "one without")
        require(path.is_file(), "Adapter.load", repr(str(folder)), f"a folder with {ADAPTER}", "one without")
        tensors, metadata = read_tensors(path, "Adapter.load")
        with inside("Adapter.load", path):
            originals, labels = (parse_json(metadata.get(key, "null"), "Adapter", key) for key in ("originals", "labels"))
            require(fits(originals, {str: str}), "Adapter", "originals", "a fingerprint by name", brief(originals))
            require(fits(labels, [str]), "Adapter", "labels", "texts of at most 1,000 characters", brief(labels))
            recipe = Recipe.from_metadata(metadata)
        return cls(_read_config(folder, tensors), tensors, originals, labels, recipe)

    def apply(self, loaded: Loaded) -> Undo:
        """Puts the adapter and the trained head into a base model, beside its weights; it attends and pools as it did in training.

        Returns:
            A handle, whose `restore` takes all of it out again.

        Raises:
            ValueError: if the model holds other values than the base that the adapter was trained on; it is left as it was.
        """
        from peft import set_peft_model_state_dict

        model, named = loaded.model, weights(loaded.model)
        for name, mark in self.originals.items():
            same = name in named and fingerprint(named[name]) == mark
            require(same, "Adapter.apply", f"weight {name!r}", "the base's that this adapter was trained on", "another model's")
        config = copy.copy(self.config)
        config.modules_to_save, config.inference_mode = None, False  # the head stands in the model as it is
        straight = [name for name in pooler_names(model) if f"{PREFIX}{name}" in self.tensors]
        names = list(dict.fromkeys([*loaded.head, *straight]))
        head = {name: named[name].detach().clone() for name in names}
        with ExitStack() as done:
            handles = [
                done.enter_context(conform(model, self.recipe, function="Adapter.apply")),
                done.enter_context(adapt(model, names, config)),
            ]
            shapes = {name: tensor.shape for name, tensor in _tensors(model, names).items()}
            stored = {name: tensor.shape for name, tensor in self.tensors.items()}
            differing = sorted(name for name in shapes.keys() | stored.keys() if shapes.get(name) != stored.get(name))
            expected = "the one that this adapter was trained on"
            require(not differing, "Adapter.apply", "the model", expected, f"another {listed(differing, 2)}")
            done.callback(_write, model, head)
            with torch.no_grad():
                set_peft_model_state_dict(model, self.tensors)
            done.pop_all()
        return Undo(model, *(call for handle in handles for call in handle.calls), partial(_write, tensors=head))


def _read_config(folder: Path, tensors: dict[str, Tensor]) -> Any:
    """PEFT's config, which asks for no layer that is larger than the tensors, and names no module to import."""
    needs("peft", "Adapter.load")
    config, name = read_adapter_config(folder), repr(str(folder / ADAPTER_CONFIG))
    held = max((len(tensor) for key, tensor in tensors.items() if ".lora_A." in key and tensor.dim()), default=0)
    modules = config.target_modules
    listed_names = isinstance(modules, (list, set)) and fits(list(modules), [str])  # one text would be a regular expression
    require(listed_names, "Adapter.load", f"target_modules in {name}", "a list of names", brief(modules))
    within = type(config.r) is int and 0 < config.r <= held
    require(within, "Adapter.load", f"r in {name}", f"from 1 to {held} as in the tensors", brief(config.r))
    return config


@torch.no_grad()
def _write(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    named = weights(model)
    for name, tensor in tensors.items():
        named[name].copy_(tensor)


def _tensors(model: nn.Module, head: list[str]) -> dict[str, Tensor]:
    """The adapter's tensors and the head's, by their names in PEFT's files."""
    from peft import get_peft_model_state_dict

    named = weights(model)
    tensors = get_peft_model_state_dict(model, save_embedding_layers=False) | {name: named[name] for name in head}
    return {f"{PREFIX}{name}": tensor for name, tensor in tensors.items()}


def _modules_of(model: nn.Module, head: list[str]) -> list[str]:
    """The largest modules that hold nothing but the head: those that PEFT is to train and keep whole."""
    inside, found = set(head), []
    for name, module in model.named_modules():
        own = {f"{name}.{parameter}" for parameter, _ in module.named_parameters()}
        if name and own and own <= inside and not any(name.startswith(f"{other}.") for other in found):
            found.append(name)
    return found
