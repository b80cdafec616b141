"""What a transformers model is made of, by parameter name: head, layers, biases, normalisation weights."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import cast

from torch import Tensor, nn

_LAYER = re.compile(r"(?:^|\.)(\d+)\.")
_ABOVE = re.compile(
    r"(?:pooler|contact_head)\.|(?:\w*norm\w*|ln\w*)\.[^.]+$", re.I
)  # what stands beside the layers and reads the last one
_EMBEDS = re.compile(r"(?:\w*embed|\w*_emb|emb)(?!\w*after\.)", re.I)  # ESM's emb_layer_norm_after is none
READ_DIRECTLY = {"DebertaEncoder": "rel_embeddings", "DebertaV2Encoder": "rel_embeddings"}  # class -> child read past its forward
READ_BY_OTHERS = {"NonDynamicallyQuantizableLinear"}  # classes whose weight is read past their forward
READ_BY_LAYERS = ("rel_embeddings", "relative_attention_bias")  # relative positions, which every layer reads


def base_model(model: nn.Module) -> nn.Module:
    """The pretrained part below the head; the model itself where transformers' convention names none."""
    return getattr(model, getattr(model, "base_model_prefix", "") or "", model)


def head_names(model: nn.Module) -> list[str]:
    """Names of the parameters above the base model; none for a bare base model or a plain module."""
    base = base_model(model)
    if base is model:
        return []
    inside = {id(parameter) for parameter in base.parameters()}
    return [name for name, parameter in model.named_parameters() if id(parameter) not in inside]


def input_embedding(model: nn.Module) -> tuple[str, nn.Module]:
    """Name of the weight that turns ids into vectors, and its module.

    Raises:
        ValueError: if it is a weight that the model does not name.
    """
    module = model.get_input_embeddings()
    for name, weight in weights(model).items():
        if weight is module.weight:
            return name, module
    raise ValueError("input_embedding: the model must hold its input embedding as a parameter, got one that it does not name")


def depths(model: nn.Module) -> dict[str, float]:
    """How deep each parameter sits: its layer's number, -1 below the layers, inf above them; if tied, the lowest of these.

    Told by names, for the order in which modules are registered need not be the one in which they run. What stands beside the
    layers is below them, unless it is known to read them: a pooler, or a norm that is no embedding's.
    """
    named, head = weights(model), set(head_names(model))
    encoders = tuple(
        f"{prefix}." if prefix else ""
        for prefix, module in model.named_modules()
        if any(getattr(module, child, None) is not None for child in READ_BY_LAYERS)
    )

    def own(name: str) -> float:
        if name in head:
            return math.inf
        match = _LAYER.search(name)
        embeds = _parts(_EMBEDS, name[: match.start()] if match else name)  # MarkupLM's tables are numbered too
        if match and not embeds:
            return int(match[1])
        beside = name.startswith(encoders)  # what such an encoder has beside its layers is read by all of them
        return math.inf if _parts(_ABOVE, name) and not embeds and not beside else -1

    lowest: dict[int, float] = {}
    for name, parameter in named.items():
        lowest[id(parameter)] = min(own(name), lowest.get(id(parameter), math.inf))
    return {name: lowest[id(parameter)] for name, parameter in named.items()}


def _parts(pattern: re.Pattern, name: str) -> bool:
    """Whether a pattern fits from the beginning of one of a name's parts on."""
    return any(pattern.match(name, begin) for begin in (0, *(i + 1 for i, c in enumerate(name) if c == ".")))


def number_of_layers(model: nn.Module) -> int:
    """How many numbered layers there are."""
    return int(max((d for d in depths(model).values() if math.isfinite(d)), default=-1)) + 1


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The numbered layers in order.

    Raises:
        ValueError: if there are none, or several stacks of them.
    """
    depth = depths(model)
    found = {name[: _LAYER.search(name).end() - 1]: int(d) for name, d in depth.items() if d >= 0 and math.isfinite(d)}
    if sorted(found.values()) != list(range(len(found))) or not found:
        raise ValueError(f"layers_of: the model must have one stack of numbered layers, got {type(model).__name__}")
    return [model.get_submodule(name) for name in sorted(found, key=found.get)]


def norm_names(model: nn.Module) -> set[str]:
    """Parameters of normalisation layers: modules whose class name holds "Norm"."""
    return _direct(model, lambda module: "norm" in type(module).__name__.lower())


def bias_names(model: nn.Module) -> set[str]:
    """Biases outside normalisation layers."""
    names = _direct(model, lambda module: True) - norm_names(model)
    return {name for name in names if name.rpartition(".")[2].endswith("bias")}


def read_past_forward(model: nn.Module) -> set[int]:
    """Ids of the modules whose weight others read without calling them: no gradient is to be had in their own forward."""
    found = {id(module) for module in model.modules() if type(module).__name__ in READ_BY_OTHERS}
    parents = (module for module in model.modules() if type(module).__name__ in READ_DIRECTLY)
    return found | {id(getattr(parent, READ_DIRECTLY[type(parent).__name__], None)) for parent in parents}


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter under every name that it has (tied ones under each)."""
    return dict(model.named_parameters(remove_duplicate=False))


def _direct(model: nn.Module, wanted) -> set[str]:
    found: Iterable = (
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        if wanted(module)
        for name, _ in module.named_parameters(recurse=False)
    )
    return set(found)


def weight_of(module: nn.Module) -> Tensor:
    """The weight of a layer that has one; the type of `nn.Module` does not tell that it is a tensor."""
    return cast(Tensor, module.weight)


def matrix_shape(module: nn.Module) -> tuple[int, int]:
    """Shape of the weight of a layer, which has two dims."""
    return cast("tuple[int, int]", tuple(weight_of(module).shape))
