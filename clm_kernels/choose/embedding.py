"""The embedding rows of token groups."""

from __future__ import annotations

from torch import nn

from ..selection import Entries, Selection
from ..structure import weights
from .token_groups import TokenGroups


def group_rows(model: nn.Module, groups: TokenGroups) -> Selection:
    """The input embedding's rows of all pieces in `groups`.

    To train them the backward pass goes through every layer, as it does for the lowest layer's weights.

    Raises:
        ValueError: if the groups' ids do not fit the embedding, or it is a weight that the model does not name.
    """
    embedding = model.get_input_embeddings().weight
    name = next((name for name, weight in weights(model).items() if weight is embedding), None)
    if name is None:
        raise ValueError("group_rows: the model must hold its input embedding as a parameter, got one that it does not name")
    ids = sorted({piece for group in groups for piece in group.ids})
    if not ids or ids[-1] >= embedding.shape[0]:
        raise ValueError(f"group_rows: groups must be of pieces below {embedding.shape[0]}, got {ids[-1] if ids else 'none'}")
    return Selection({name: Entries.of("rows", ids, tuple(embedding.shape))})
