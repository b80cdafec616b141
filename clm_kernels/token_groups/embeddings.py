"""The new tokens' embedding rows, made from those of the pieces that they replace."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..errors import require
from ..extension import Extension
from ..fingerprint import fingerprint
from ..handles import Restorable
from ..models.embedding import resize_embedding
from ..models.structure import weights
from ..selection import Selection

if TYPE_CHECKING:
    from .merging import MergedTokenizer

HOW = ("mean", "weighted")


class ExtendedEmbedding(Restorable):
    """What `extend_embeddings` did to a model; unpacks into extension and selection.

    Attributes:
        model: whose embedding has the new tokens' rows; `restore` takes them away.
        extension: what `patch` and a `Delta` need to know of the base.
        selection: exactly the new rows.
    """

    def __init__(self, model: nn.Module, extension: Extension):
        self.model, self.extension = model, extension
        self.selection = Selection({extension.name: extension.entries})
        self._unused = [token.id for token in extension.tokens if token.id < extension.rows]
        weight = model.get_input_embeddings().weight
        self._former = weight.detach()[self._unused].clone()
        self._resized = resize_embedding(model, extension.shape[0]) if extension.shape[0] > extension.rows else None

    def __iter__(self) -> Iterator[Any]:
        return iter((self.extension, self.selection))

    def _undo(self) -> None:
        if self._resized is not None:
            self._resized.restore()
        weight = self.model.get_input_embeddings().weight
        with torch.no_grad():
            weight[self._unused] = self._former.to(weight.device)


def extend_embeddings(model: nn.Module, merged: MergedTokenizer, how: str = "mean") -> ExtendedEmbedding:
    """Gives the model a row for every new token, in place.

    Args:
        model: one of transformers; its embedding grows, unless it has rows that its tokenizer does not use.
        merged: what `merge_groups` made of its tokenizer.
        how: ``"mean"`` of the pieces' rows, or ``"weighted"``: the i-th of n pieces counts i / (1 + ... + n), so that the
            later ones weigh more, as the head of a phrase mostly comes last ("direct debit").

    Returns:
        A handle, which unpacks into what `patch` and a `Delta` need to know of the base, and a selection of exactly the new rows.

    Raises:
        ValueError: if the model is not the tokenizer's, or its embedding cannot be resized.
    """
    require(how in HOW, "extend_embeddings", "how", f"one of {', '.join(HOW)}", repr(how))
    embedding = getattr(model, "get_input_embeddings", lambda: None)()
    require(embedding is not None, "extend_embeddings", "model", "one of transformers with an embedding", type(model).__name__)
    rows, columns = embedding.weight.shape
    first = merged.tokens[0].id
    require(first <= rows, "extend_embeddings", "model", f"one with a row for each of the tokenizer's {first} tokens", rows)
    name = next(name for name, parameter in weights(model).items() if parameter is embedding.weight)
    extension = Extension(name, rows, columns, fingerprint(embedding.weight), merged.tokens)
    extended = ExtendedEmbedding(model, extension)
    weight = model.get_input_embeddings().weight
    with torch.no_grad():
        for token in merged.tokens:
            pieces = weight[list(token.pieces)].double()
            share = torch.ones(len(pieces)) if how == "mean" else torch.arange(1.0, len(pieces) + 1)
            share = (share / share.sum()).to(pieces)
            weight[token.id] = (share @ pieces).to(weight.dtype)
    return extended
