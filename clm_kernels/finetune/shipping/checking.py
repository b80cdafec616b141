"""Holds what was written against what was trained: read again as its user will, on real rows, or refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...errors import require
from ..encode import Encoded
from .served import Served, largest_difference

# An adapter that is folded into the weights moves MiniLM's logits, on banking77, by 5e-7 of the largest in float32, by 5e-3 in
# bfloat16 and by 6e-4 in float16, where the folded weights themselves are rounded.
LIMITS = {torch.float32: 1e-5, torch.float64: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}


def check_logits(
    what: str, expected: Sequence[NDArray], found: Sequence[NDArray], encoded: Encoded, limit: float, relative: bool = True
) -> float:
    """The largest difference.

    Args:
        relative: in proportion to the largest logit, where that is beyond 1: what is added in another order rounds so.

    Raises:
        ValueError: beyond `limit`; names the row.
    """
    scale = max(1.0, *(float(np.abs(row).max(initial=0)) for row in expected)) if relative else 1.0
    difference, worst = largest_difference(expected, found)
    place = f"{encoded.split.path}, {encoded.split.where[worst]}".removeprefix(", ")
    wanted = (
        f"within {limit:g}{f' of the largest, {scale:.3g},' * relative} of the trained model's on all of {len(expected):,} texts"
    )
    require(difference <= limit * scale, "export", f"logits of {what}", wanted, f"a difference of {difference:.3g} at {place}")
    return difference / scale


def check_tokens(served: Served, tokenizer: Any, encoded: Encoded) -> None:
    """Raises ValueError where a tokenizer that was read again gives other tokens than the one that was trained with."""
    texts, _ = served.task.written(list(encoded.split.texts), served.tokenizer, served.max_length, served.template)
    found = tokenizer(texts, truncation=True, is_split_into_words=served.task.per_token)["input_ids"]
    for i, (ids, own) in enumerate(zip(found, encoded.dataset["input_ids"], strict=True)):
        place = f"the tokens of {encoded.split.where[i]}"
        require(list(ids) == list(own), "export", place, "the same from the tokenizer that is read again", "others")
