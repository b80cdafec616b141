"""Adaptive tokenization: the best token groups become single tokens of an existing tokenizer."""

from .embeddings import HOW, extend_embeddings
from .merging import BY, MergedTokenizer, add_tokens, merge_groups
from .saving import check_reload, tokens_per_text

__all__ = ["BY", "HOW", "MergedTokenizer", "add_tokens", "check_reload", "extend_embeddings", "merge_groups", "tokens_per_text"]
