"""Which layers of a decoder attend to both sides: how it is asked for, and done."""

from __future__ import annotations

from torch import nn

from ..errors import refuse
from ..models.attention import bidirectional, causal, restore_attention, sees_both_sides
from .config import SPAN


def set_sides(model: nn.Module, wanted: str) -> None:
    """Makes the layers of a model that was just loaded attend to both sides; ``"auto"``: as its config records.

    Raises:
        ValueError: for layers that it does not have, or a model that cannot, see `bidirectional`; for one that attends to both
            sides anyway, where nothing would change.
    """
    if wanted not in ("auto", "none") and (reason := sees_both_sides(model)):
        refuse("train", "bidirectional", f"left out for {type(model).__name__}, which {reason}", repr(wanted))
    restore_attention(model)
    if wanted == "none":
        causal(model)
    elif span := SPAN.fullmatch(wanted):
        bidirectional(model, (int(span[1]), int(span[2]) + 1))
    elif wanted != "auto":
        bidirectional(model, wanted)
