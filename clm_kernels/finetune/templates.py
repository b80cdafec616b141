"""Words put around every text: ``"Intent of {text}:"``. By default there are none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import require
from ..recipe import TEXT
from ..strangers import cut

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

CONFIG_KEY = "clm_template"


def check_template(template: str) -> None:
    """Raises ValueError unless the text has one place in it."""
    require(template.count(TEXT) == 1, "train", "template", f"a text that holds {TEXT} once", repr(template))


def template_of(config: PreTrainedConfig) -> str:
    """The template that a model was trained with, as its config records it."""
    template = getattr(config, CONFIG_KEY, TEXT)
    known = isinstance(template, str) and template.count(TEXT) == 1
    require(known, "template_of", f"{CONFIG_KEY} of the config", f"a text that holds {TEXT} once", cut(repr(template)))
    return template


def fill(template: str, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int) -> tuple[list[str], int]:
    """The texts in the template, and how many had to be cut off at their end so that the template stays whole.

    Raises:
        ValueError: if `max_length` tokens leave no room for the text.
    """
    before, after = template.split(TEXT)
    filled = [before + text + after for text in texts]
    long = [i for i, ids in enumerate(tokenizer(filled)["input_ids"]) if len(ids) > max_length]
    for i in long:
        filled[i] = before + _shortened(texts[i], before, after, tokenizer, max_length) + after
    return filled, len(long)


def _shortened(text: str, before: str, after: str, tokenizer: PreTrainedTokenizerBase, max_length: int) -> str:
    """The longest beginning of `text` that fits; a shorter text may be tokenised otherwise, hence the loop."""
    while (excess := len((encoding := tokenizer([before + text + after]).encodings[0]).ids) - max_length) > 0:
        inside = range(len(before), len(before) + len(text))
        starts = [start for (start, end) in encoding.offsets if start in inside and end > start]
        kept = text[: starts[-excess] - len(before)].rstrip() if len(starts) > excess else ""
        require(bool(kept), "encode", "max_length", "more tokens than the template takes", max_length)
        text = kept
    return text
