"""Which base a model is: a fingerprint by which a delta knows the one that it was made on."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import nn

from ..errors import require
from ..fingerprint import sampled
from ..strangers import brief, fits
from .structure import depths, weights

VERSION = 1
BASE = {"version": int, "fingerprint": str}  # as JSON
ROWS = 32  # of an embedding


def base_fingerprint(model: nn.Module, left_out: Collection[str] = ()) -> str:
    """32 hex digits over a sample of all weights up to the last layer, whatever their names; nothing for a model without data.

    Of embeddings the first 32 rows count, so that one that has been given further rows is still the same. What stands above the
    layers does not: heads and poolers are drawn at random where a checkpoint does not hold them.

    Args:
        left_out: names of weights that do not count either, nor under the other names of tied ones.
    """
    depth, named = depths(model), weights(model)
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    apart = {id(named[name]) for name in left_out if name in named}
    counted = [
        weight[:ROWS] if id(weight) in embeddings else weight
        for name, weight in named.items()
        if depth[name] < float("inf") and id(weight) not in apart
    ]
    return "" if any(weight.is_meta for weight in counted) else sampled(counted)


def base_to_json(fingerprint: str) -> dict[str, Any]:
    """What a delta's file holds of its base."""
    return {"version": VERSION, "fingerprint": fingerprint}


def base_from_json(described: Any) -> str:
    """The inverse of `base_to_json`; nothing for the None of older files.

    Raises:
        ValueError: for another version, or anything else.
    """
    if described is None:
        return ""
    expected = f"an object with {' and '.join(BASE)}"
    require(fits(described, BASE), "Delta", "base", expected, brief(described))
    version = described["version"]
    require(version == VERSION, "Delta", "the version of base", f"{VERSION}, the one that is known here", brief(version))
    return described["fingerprint"]
