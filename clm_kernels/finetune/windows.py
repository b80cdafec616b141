"""`--long`: what becomes of texts that are longer than the limit: cut off, refused, or read in windows whose logits are averaged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import refuse, require
from .judging.logits import all_logits
from .split import Split
from .templates import TEXT

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from .encode import Encoded
    from .tasks import Task

OVERLAP = 4  # of a window's tokens, one in so many stands in the window before it too


def check_long(function: str, long: str, task: Task) -> None:
    """Raises ValueError for another way than the three, and for windows of words with tags."""
    ways = "'truncate', 'window' or 'error'"
    require(long in ("truncate", "window", "error"), function, "long", ways, repr(long))
    whole = "truncate or error for tags, whose words each have a logit of their own"
    require(long != "window" or not task.per_token, function, "long", whole, repr(long))


def check_cuts(function: str, encoded: Encoded, unit: str, limit: int, name: str = "the texts") -> None:
    """Raises ValueError where anything was cut off, for the long way ``"error"``."""
    if encoded.cut:
        where = min(encoded.split.where[i] for i in np.flatnonzero(encoded.cuts).tolist())
        place = f"{encoded.split.path} {where}" if encoded.split.path else f"text {where + 1}"
        refuse(function, name, f"of at most {limit} tokens, as long is 'error'", f"{encoded.cut:,} {unit} beyond, as in {place}")


def window_texts(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, limit: int, template: str = TEXT
) -> tuple[list[str], NDArray[np.int64]]:  # fmt: skip
    """Parts of the texts that fit, in the template too, and which text each belongs to; a text that fits is its own only part.

    Raises:
        ValueError: if the template leaves no room.
    """
    room = limit - len(tokenizer(template.replace(TEXT, ""))["input_ids"])
    require(room > 0, "predict", "max_length", "more tokens than the template takes", limit)
    parts: list[str] = []
    owners: list[int] = []
    for i, text in enumerate(texts):
        whole = tokenizer(template.replace(TEXT, text), verbose=False)["input_ids"]  # longer than the limit is the point
        own = [text] if len(whole) <= limit else _parts(text, tokenizer, room)
        parts += own
        owners += [i] * len(own)
    return parts, np.array(owners, np.int64)


def _parts(text: str, tokenizer: PreTrainedTokenizerBase, room: int) -> list[str]:
    offsets = tokenizer([text], add_special_tokens=False, verbose=False).encodings[0].offsets
    last = max(0, len(offsets) - room)
    begins = [*range(0, last, max(1, room - room // OVERLAP)), last]
    return [text[offsets[begin][0] : offsets[min(begin + room, len(offsets)) - 1][1]] for begin in begins]


def windowed_logits(
    model: Any, task: Task, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], limit: int, template: str, batch_size: int
) -> NDArray[np.float32]:  # fmt: skip
    """``(texts, labels)``: of each text the mean over its windows' logits."""
    parts, owners = window_texts(texts, tokenizer, limit, template)
    encoded = task.encode(Split("", parts, [None] * len(parts), range(len(parts))), None, tokenizer, limit, True, template)
    logits = all_logits(model, encoded, tokenizer, batch_size)
    own = owners[np.fromiter(encoded.split.where, np.int64, len(parts))]
    total = np.zeros((len(texts), logits.shape[1]), np.float64)
    np.add.at(total, own, logits)
    return (total / np.bincount(own, minlength=len(texts))[:, None]).astype(np.float32)
