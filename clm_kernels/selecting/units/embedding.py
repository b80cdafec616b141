"""The embedding rows of token groups."""

from __future__ import annotations

from torch import nn

from ...models.structure import input_embedding
from ...selection import Entries, Selection
from ...token_groups import TokenGroups


def group_rows(model: nn.Module, groups: TokenGroups) -> Selection:
    """The input embedding's rows of all pieces in `groups`.

    To train them the backward pass goes through every layer, as it does for the lowest layer's weights.

    Raises:
        ValueError: if the groups' ids do not fit the embedding, or it is a weight that the model does not name.
    """
    name, embedding = input_embedding(model)
    ids = sorted({piece for group in groups for piece in group.ids})
    if not ids or ids[-1] >= embedding.num_embeddings:
        raise ValueError(
            f"group_rows: groups must be of pieces below {embedding.num_embeddings}, got {ids[-1] if ids else 'none'}"
        )
    return Selection({name: Entries.of("rows", ids, tuple(embedding.weight.shape))})
