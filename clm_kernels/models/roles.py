"""What a linear layer does in its layer of the model, by the names that families give and by its place.

Query, key, value, or the three in one; what leads out of an attention; what leads into and out of a feed-forward part.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from enum import Enum

from torch import nn

from .linear import is_conv1d, is_linear
from .structure import depths, head_names

PROJECTIONS = ("query", "key", "value")
_NAMES = {role: re.compile(rf"^(?:{role[0]}|{role}|w{role[0]})(?:_lin|_proj)?$", re.I) for role in PROJECTIONS}
_POSITIONS = re.compile(r"^pos_")  # DeBERTa: projections of relative positions, split into heads as query and key are
_NUMBERED = re.compile(r"^(.*\.\d+)\.(.+)$")  # greedy: up to the last number
HEAD_SIZE = ("head_dim", "attention_head_size", "head_size", "key_value_proj_dim")


class Order(Enum):
    """How queries, keys and values lie in one weight, which says nothing of it itself."""

    IN_TURN = "all queries, all keys, all values"
    BY_GROUP = "group by group, each group's queries, then its key and its value"
    UNKNOWN = "not the same in all families that use the name"


FUSED = {
    "Wqkv": Order.IN_TURN,
    "c_attn": Order.IN_TURN,
    "query_key_value": Order.BY_GROUP,
    "in_proj": Order.BY_GROUP,
    "qkv_proj": Order.UNKNOWN,  # Phi-3's lie in turn, CodeGen's in four parts
    "qkv": Order.UNKNOWN,
}


def role_of(name: str) -> str:
    """``"query"``, ``"key"``, ``"value"`` or nothing, by the last part of a module's name."""
    return next((role for role, pattern in _NAMES.items() if pattern.match(_last(name))), "")


def is_fused(name: str) -> bool:
    """Whether a module of this name holds query, key and value in one weight."""
    return _last(name) in FUSED


def order_of(name: str, module: nn.Module) -> Order:
    """How they lie in a fused weight."""
    if (_last(name) == "c_attn") != is_conv1d(module):
        return Order.UNKNOWN  # GPT-BigCode has a c_attn too, a linear layer of another order
    return FUSED.get(_last(name), Order.UNKNOWN)


def projects_positions(name: str) -> bool:
    """Whether a module of this name projects relative positions into heads."""
    return bool(_POSITIONS.match(_last(name)))


def linears_by_role(model: nn.Module) -> dict[str, tuple[nn.Module, tuple[str, ...]]]:
    """Each linear layer inside the numbered layers, by name, with its roles: more than one where query, key and value are fused.

    Left out is what projects relative positions, which are no tokens. Of a feed-forward part the last layer leads out.
    """
    depth, head = depths(model), set(head_names(model))
    found: dict[str, tuple[nn.Module, tuple[str, ...]]] = {}
    last: dict[str, str] = {}  # prefix of a numbered layer -> its last layer outside the attention
    for name, module in model.named_modules():
        weight = f"{name}.weight"
        if not is_linear(module) or weight in head or not 0 <= depth.get(weight, -1) < math.inf or projects_positions(name):
            continue
        match = _NUMBERED.match(name)
        prefix, rest = match.groups() if match else ("", name)
        if "att" not in rest.lower():
            found[name], last[prefix] = (module, ("feed_in",)), name
        elif is_fused(name):
            found[name] = module, PROJECTIONS
        else:
            found[name] = module, (role_of(name) or "output",)
    return found | {name: (found[name][0], ("feed_out",)) for name in last.values()}


def numbered(name: str) -> tuple[int, str]:
    """The number of the layer that a linear layer stands in, by its name, and its name in there."""
    match = re.match(r"(?:.*?\.)?(\d+)\.(.+)$", name)
    return (int(match[1]), match[2]) if match else (0, name)


def by_number(shares: Mapping[str, float]) -> dict[int, float]:
    """Something of each linear layer, by its name, as the mean over each layer of the model, by its number."""
    found: dict[int, list[float]] = {}
    for name, share in shares.items():
        found.setdefault(numbered(name)[0], []).append(share)
    return {number: sum(each) / len(each) for number, each in sorted(found.items())}


def head_size(attention: nn.Module) -> int | None:
    """Features of one head; None if the module does not say so under one of HEAD_SIZE."""
    sizes = (getattr(attention, attribute, None) for attribute in HEAD_SIZE)
    return next((size for size in sizes if isinstance(size, int)), None)


def _last(name: str) -> str:
    return name.rpartition(".")[2]
