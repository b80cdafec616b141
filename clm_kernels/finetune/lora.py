"""The method lora: PEFT's low-rank layers inside the model, whose class, head and pooling stay (Hu et al., arXiv 2106.09685).

The result is an adapter in PEFT's own format, so that PEFT reads it too: its two files, with the head among the tensors.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..errors import listed, require
from ..extras import needs
from ..fingerprint import checksum, fingerprint
from ..models.attention import bidirectional, bidirectional_layers
from ..models.structure import head_names, weights
from ..selecting.scores.sensitivity import eligible_weights
from .artifacts import ADAPTER, ADAPTER_CONFIG
from .models import Loaded
from .tasks import TASKS

PREFIX = "base_model.model."  # of every tensor's name in PEFT's files

_ROLES = {role: re.compile(rf"^(?:{role[0]}|{role}|w{role[0]})(?:_lin|_proj)?$", re.I) for role in ("query", "key", "value")}
_FUSED = ("Wqkv", "qkv_proj", "query_key_value", "c_attn", "in_proj", "qkv")  # the three in one weight


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
        matching = _of_role(names, item) if item in _ROLES else [n for n in names if f".{n}".endswith(f".{item}")]
        ends = dict.fromkeys(name.rpartition(".")[2] for name in names)
        expected = f"'all-linear', 'query', 'key', 'value' or names like {listed(ends)} of {type(model).__name__}"
        require(bool(matching), "train", "lora_targets", expected, repr(item))
        found.update(matching)
    return [name for name in names if name in found]


def _of_role(names: list[str], role: str) -> list[str]:
    attention = [(name, name.rpartition(".")[2]) for name in names if "att" in name.lower()]
    own = [name for name, last in attention if _ROLES[role].match(last)]
    return own or [name for name, last in attention if last in _FUSED]


def adapt(model: nn.Module, head: bool | Iterable[str], peft_config: Any) -> None:
    """Puts PEFT's layers for this config into the model, in place; they and the head train, nothing else does.

    The adapter has the model's dtype. Modules get inner names, ``x.base_layer`` and ``x.lora_A.default``; class, config and
    hooks of the model stay, which is why this is no `get_peft_model`.
    """
    from peft import inject_adapter_in_model

    named = weights(model)
    trained = [named[name] for name in (head_names(model) if head is True else head or ())]
    inject_adapter_in_model(peft_config, model)
    for parameter in trained:
        parameter.requires_grad_(True)


def fold(model: nn.Module) -> None:
    """Adds every adapter to the weight that it stands beside, and takes its layers out; nothing to do without any."""
    for name, layer in _lora_layers(model).items():
        layer.merge()
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
        made: how it was made, as in a `Delta`.
    """

    config: Any
    tensors: dict[str, Tensor]
    originals: dict[str, str]
    labels: list[str]
    made: dict[str, Any]

    @classmethod
    def of(cls, loaded: Loaded, labels: list[str], made: dict[str, Any]) -> Adapter:
        """What a model adapted by `adapt` holds now."""
        config = copy.copy(loaded.model.peft_config["default"])
        config.task_type, config.inference_mode = TASKS[made["task"]].peft, True
        config.modules_to_save = _modules_of(loaded.model, loaded.head)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in _tensors(loaded.model, loaded.head).items()}
        layers = _lora_layers(loaded.model)
        if both := bidirectional_layers(loaded.model):
            made = {**made, "bidirectional": [both.start, both.stop]}
        originals = {f"{name}.weight": fingerprint(layer.get_base_layer().weight) for name, layer in layers.items()}
        return cls(config, tensors, originals, labels, made)

    def save(self, folder: Path) -> None:
        """Writes PEFT's two files into an existing folder."""
        metadata = {"format": "pt", "labels": json.dumps(self.labels), "made": json.dumps(self.made)}
        metadata["originals"] = json.dumps(self.originals)
        metadata["checksum"] = checksum(self.tensors, metadata)
        save_file(self.tensors, folder / ADAPTER, metadata)
        self.config.save_pretrained(folder)

    @classmethod
    def load(cls, folder: Path) -> Adapter:
        """Reads what `save` wrote, and checks it.

        Raises:
            ValueError: if a file is missing, altered, or of another program.
            NotInstalled: without peft.
        """
        peft = needs("peft", "Adapter.load")
        path = folder / ADAPTER
        complete = (folder / ADAPTER_CONFIG).is_file()
        require(complete, "Adapter.load", repr(str(folder)), f"a folder with {ADAPTER_CONFIG}", "one without")
        try:
            with safe_open(path, framework="pt") as file:
                metadata, tensors = dict(file.metadata() or {}), {name: file.get_tensor(name) for name in file.keys()}
        except (SafetensorError, OSError) as error:
            raise ValueError(f"Adapter.load: {str(path)!r} is truncated or no safetensors file: {error}") from error
        require("made" in metadata, "Adapter.load", repr(str(path)), "one that `train` made", "one without its record")
        unaltered = metadata.pop("checksum", None) == checksum(tensors, metadata)
        require(unaltered, "Adapter.load", repr(str(path)), "as it was saved", "an altered file: its checksum does not match")
        originals, labels, made = (json.loads(metadata[key]) for key in ("originals", "labels", "made"))
        return cls(peft.LoraConfig.from_pretrained(str(folder)), tensors, originals, labels, made)

    def apply(self, loaded: Loaded) -> None:
        """Puts the adapter and the trained head into a base model, beside its weights; it attends as it did in training.

        Raises:
            ValueError: if the model holds other values than the base that the adapter was trained on.
        """
        from peft import set_peft_model_state_dict

        named = weights(loaded.model)
        for name, mark in self.originals.items():
            same = name in named and fingerprint(named[name]) == mark
            require(same, "Adapter.apply", f"weight {name!r}", "the base's that this adapter was trained on", "another model's")
        if both := self.made.get("bidirectional"):
            bidirectional(loaded.model, tuple(both))
        config = copy.copy(self.config)
        config.modules_to_save, config.inference_mode = None, False  # the head stands in the model as it is
        adapt(loaded.model, loaded.head, config)
        shapes = {name: tensor.shape for name, tensor in _tensors(loaded.model, loaded.head).items()}
        stored = {name: tensor.shape for name, tensor in self.tensors.items()}
        differing = sorted(name for name in shapes.keys() | stored.keys() if shapes.get(name) != stored.get(name))
        expected = "the one that this adapter was trained on"
        require(not differing, "Adapter.apply", "the model", expected, f"another {listed(differing, 2)}")
        with torch.no_grad():
            set_peft_model_state_dict(loaded.model, self.tensors)


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
