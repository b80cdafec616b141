"""What a classifier is asked for: texts as its task takes them, the same for `Classifier`, a trunk and the command line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import require
from ..strangers import brief

if TYPE_CHECKING:
    from .tasks import Task


def list_of(function: str, texts: Any) -> list[Any]:
    """Whatever holds texts in an order, as a list: a list, an array, a column of a table, a generator.

    Raises:
        ValueError: for a value that holds none, or a table of several columns.
    """
    column = getattr(texts, "ndim", 1) == 1 or isinstance(texts, np.ndarray)
    fits = isinstance(texts, Iterable) and column and not isinstance(texts, (bytes, Mapping))
    require(fits, function, "texts", "a text or a list of texts", brief(texts))
    return list(texts)


def text_of(function: str, text: Any, task: Task, place: str) -> Any:
    """A text as a task takes it; a tagger takes a list of words, or a text whose words are parted by spaces.

    Raises:
        ValueError: for anything else, and for one with nothing in it.
    """
    words = task.per_token
    parts = task.read_line(text) if words and isinstance(text, str) else text if words else [text]
    several = isinstance(parts, (list, tuple, np.ndarray)) and len(parts) > 0
    fits = several and all(isinstance(part, str) and part.strip() for part in parts)
    expected = "a list of words or a text that is not empty" if words else "a text that is not empty"
    require(fits, function, place, expected, brief(text))
    return list(parts) if words else text


def check_batch_size(function: str, batch_size: Any) -> None:
    whole = isinstance(batch_size, int) and batch_size >= 1
    require(whole, function, "batch_size", "a whole number from 1 on", repr(batch_size))
