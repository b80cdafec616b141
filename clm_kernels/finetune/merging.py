"""`merge_tokens`: what the tokenizer and the embedding of a run get before anything else is done with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..token_groups import token_groups
from ..token_groups.embeddings import extend_embeddings
from ..token_groups.merging import merge_groups
from ..token_groups.saving import check_reload
from .config import Data
from .data import Corpus
from .models import Loaded


def merge_tokens(data: Data, loaded: Loaded, corpus: Corpus, say: Callable[[str], None]) -> tuple[Loaded, dict[str, Any]]:
    """The model and tokenizer with the training data's best token groups as single tokens, and what to report of it.

    Raises:
        ValueError: if nothing can be merged, or the tokenizer would not survive being saved.
    """
    if not data.merge_tokens:
        return loaded, {}
    texts = corpus.train.texts
    groups = token_groups(corpus.task.pairs(corpus.train), loaded.tokenizer, top=data.merge_tokens)
    merged = merge_groups(loaded.tokenizer, groups, texts, top=data.merge_tokens, by=data.merge_by)
    check_reload(merged.tokenizer, texts)
    extension = extend_embeddings(loaded.model, merged).extension
    report = merged.report({name: split.texts for name, split in corpus.splits.items()})
    lengths = report["tokens_per_text"]
    means = ", ".join(f"{name} {found['before']:.1f} -> {found['after']:.1f}" for name, found in lengths.items())
    fewer = f", {len(merged.left_out)} groups left out" if merged.left_out else ""
    say(f"merged {len(merged.tokens)} of {data.merge_tokens} token groups{fewer}; tokens a text: {means}")
    return replace(loaded, tokenizer=merged.tokenizer, extension=extension), report
