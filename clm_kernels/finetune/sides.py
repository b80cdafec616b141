"""Which layers of a decoder attend to both sides: how it is asked for, and done."""

from __future__ import annotations

import re

from torch import nn

from ..errors import require
from ..models.attention import bidirectional, causal, restore_attention

SIDES = ("auto", "none", "all", "upper half")
_SPAN = re.compile(r"(\d+)-(\d+)")


def check_sides(wanted: str) -> None:
    """Raises ValueError unless `wanted` is among SIDES or names layers, as ``"8-31"``."""
    known = wanted in SIDES or _SPAN.fullmatch(wanted)
    require(bool(known), "train", "bidirectional", f"{', '.join(SIDES)}, or the first and last layer as 8-31", repr(wanted))


def set_sides(model: nn.Module, wanted: str) -> None:
    """Makes the layers of a model that was just loaded attend to both sides; ``"auto"``: as its config records.

    Raises:
        ValueError: for layers that it does not have, or a model that cannot; see `bidirectional`.
    """
    restore_attention(model)
    if wanted == "none":
        causal(model)
    elif span := _SPAN.fullmatch(wanted):
        bidirectional(model, (int(span[1]), int(span[2]) + 1))
    elif wanted != "auto":
        bidirectional(model, wanted)
