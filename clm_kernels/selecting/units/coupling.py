"""Which rows and columns of a transformer belong together: attention heads and feed-forward neurons.

Found by what stands in a numbered layer, in which order and of which shape; names only tell query, key and value apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...models.linear import is_conv1d
from ...models.roles import FUSED, HEAD_SIZE, PROJECTIONS, Order, head_size, is_fused, order_of, projects_positions, role_of
from ..scores.sensitivity import eligible_weights

_NUMBERED = re.compile(r"^(.*\.\d+)\.(.+)\.weight$")  # greedy: up to the last number


class Coupled(NamedTuple):
    """Units of one attention or feed-forward part: features that are of use only together.

    Attributes:
        prefix: of the layer's modules.
        outputs: weight name -> ``(units, members)``: output features.
        inputs: weight name -> ``(units, members)``: input features.
    """

    prefix: str
    outputs: dict[str, Tensor]
    inputs: dict[str, Tensor]


def heads(model: nn.Module, layers: str = "all") -> list[Coupled]:
    """Attention heads: rows of query, key and value, and the columns of the output projection that read them.

    Where query heads share a key and a value (grouped or multi-query attention), a unit is such a group: its queries,
    its key and its value. So units never share an entry, and a unit left alone computes the same as before.

    Raises:
        ValueError: for an attention whose structure is not known, naming what is missing.
    """
    return [_heads(model, prefix, found) for prefix, found in _parts(model, layers, attention=True)]


def neurons(model: nn.Module, layers: str = "all") -> list[Coupled]:
    """Feed-forward neurons: a row of each weight that reads the hidden state, and the column that reads the neuron.

    The last weight leads out. One weight of twice the neurons is a gated unit's two halves, as `chunk` splits them.

    Raises:
        ValueError: for a feed-forward part whose structure is not known, naming what is missing.
    """
    return [_neurons(prefix, found) for prefix, found in _parts(model, layers, attention=False)]


def _parts(model: nn.Module, layers: str, attention: bool) -> Iterator[tuple[str, dict[str, nn.Module]]]:
    """Layer prefix -> its attention's linear modules, or all others, by the name in the layer."""
    found: dict[str, dict[str, nn.Module]] = {}
    for name, module in eligible_weights(model, layers).items():
        if (match := _NUMBERED.match(name)) and ("att" in match[2].lower()) == attention:
            found.setdefault(match[1], {})[match[2]] = module
    if not found:
        wanted = "an attention with linear weights" if attention else "feed-forward weights beside the attention"
        raise ValueError(f"units: the model's layers must have {wanted}, got none in {type(model).__name__}")
    return iter(found.items())


def _features(module: nn.Module) -> tuple[int, int]:
    """Output and input features."""
    rows, columns = module.weight.shape
    return (columns, rows) if is_conv1d(module) else (rows, columns)


def _fail(prefix: str, part: str, expected: str, found: dict[str, nn.Module]) -> ValueError:
    got = ", ".join(f"{name} {_features(module)}" for name, module in found.items())
    return ValueError(f"units: the {part} of {prefix!r} must have {expected}, got (out, in) of {got}")


def _heads(model: nn.Module, prefix: str, found: dict[str, nn.Module]) -> Coupled:
    parts = {role: [name for name in found if role_of(name) == role] for role in PROJECTIONS}
    fused = [name for name in found if is_fused(name) and order_of(name, found[name]) is not Order.UNKNOWN]
    positions = [name for name in found if projects_positions(name)]
    reading = [*(name for names in parts.values() for name in names), *fused, *positions]
    out = [name for name in found if name not in reading]
    separate = all(len(names) == 1 for names in parts.values()) and not fused
    if not separate and not (len(fused) == 1 and not any(parts.values())):
        known = [name for name, order in FUSED.items() if order is not Order.UNKNOWN]
        wanted = f"one weight each for query, key and value, or one of {', '.join(known)}"
        raise _fail(prefix, "attention", wanted, found)
    if len(out) != 1:
        raise _fail(prefix, "attention", "one output projection", found)
    size = _head_size(model, f"{prefix}.{reading[0]}")
    width = _features(found[out[0]])[1]
    if separate:
        (query,), (key,), (value,) = parts.values()
        sizes = [_features(found[name])[0] for name in (query, key, value)]
    else:
        shared = (_features(found[fused[0]])[0] - width) // 2
        sizes = [width, shared, shared]
    groups = sizes[1] // size
    whole = sizes[0] == width and sizes[1] == sizes[2] == groups * size > 0 and width % (groups * size) == 0
    if not whole or any(_features(found[name])[0] != width for name in positions):
        raise _fail(prefix, "attention", f"queries, keys and values in heads of {size} that fill the output projection", found)
    queries, keys = (torch.arange(n).view(groups, -1) for n in sizes[:2])
    if separate:
        outputs = {query: queries, key: keys, value: keys}
    elif order_of(fused[0], found[fused[0]]) is Order.IN_TURN:
        outputs = {fused[0]: torch.cat([queries, width + keys, width + sizes[1] + keys], 1)}
    else:
        outputs = {fused[0]: torch.arange(sum(sizes)).view(groups, -1)}
    outputs |= dict.fromkeys(positions, queries)
    return Coupled(prefix, {f"{prefix}.{n}.weight": i for n, i in outputs.items()}, {f"{prefix}.{out[0]}.weight": queries})


def _head_size(model: nn.Module, name: str) -> int:
    parent = model.get_submodule(name.rpartition(".")[0])
    if (size := head_size(parent)) is None:
        raise ValueError(f"units: {type(parent).__name__} must say its heads' size as {' or '.join(HEAD_SIZE)}, got none of them")
    return size


def _neurons(prefix: str, found: dict[str, nn.Module]) -> Coupled:
    *reading, out = found
    hidden, count = _features(found[out])
    rows = [_features(found[name])[0] for name in reading]
    neurons = torch.arange(count)[:, None]
    if rows == [2 * count]:
        index = torch.cat([neurons, count + neurons], 1)
    elif rows in ([count], [count, count]):
        index = neurons
    else:
        raise _fail(prefix, "feed-forward part", "one or two weights that lead in, and one of that width, the last, out", found)
    if any(_features(found[name])[1] != hidden for name in reading):
        raise _fail(prefix, "feed-forward part", "weights that lead in from as many features as it leads out to", found)
    return Coupled(prefix, {f"{prefix}.{name}.weight": index for name in reading}, {f"{prefix}.{out}.weight": neurons})
