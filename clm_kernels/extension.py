"""New tokens of a model: what its tokenizer and its embedding have that the base's have not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .errors import require
from .selection import Entries, Selection
from .strangers import brief, fits

TOKEN = {"text": str, "id": int, "pieces": [int], "lstrip": bool}
EXTENSION = {"name": str, "rows": int, "columns": int, "original": str, "tokens": [TOKEN]}  # as JSON


@dataclass(frozen=True)
class NewToken:
    """A token that stands for a run of pieces.

    Attributes:
        text: what it stands for in a text.
        id: its id, and the embedding's row.
        pieces: ids of the pieces that it replaces.
        lstrip: whether it takes the spaces before it along.
    """

    text: str
    id: int
    pieces: tuple[int, ...]
    lstrip: bool


@dataclass(frozen=True)
class Extension:
    """New tokens, and the base that they were added to.

    Attributes:
        name: of the input embedding's weight.
        rows, columns: shape of the base's weight.
        original: fingerprint of the base's weight.
        tokens: in the order of their ids. Their rows lie above the base's, or are rows that its tokenizer does not use.
    """

    name: str
    rows: int
    columns: int
    original: str
    tokens: tuple[NewToken, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Of the weight with the new tokens."""
        return max(self.rows, self.tokens[-1].id + 1), self.columns

    @property
    def entries(self) -> Entries:
        """Exactly the new tokens' rows of the weight."""
        return Entries.of("rows", [token.id for token in self.tokens], self.shape)

    def extend(self, selection: Selection) -> Selection:
        """A selection for the base, or for the model with the new tokens, with the new rows besides."""
        own = selection.get(self.name)
        if own is not None and own.shape == (self.rows, self.columns) != self.shape:
            own = own if own.kind == "rows" else own.as_elements()  # whose numbers stay when rows are added
            selection = Selection({**selection, self.name: Entries(own.kind, own.index, self.shape)})
        return selection | Selection({self.name: self.entries})

    def check(self, function: str, selection: Selection) -> None:
        """Raises ValueError unless the new rows are as many as the tokens at most, and the selection holds each of them."""
        ids = [token.id for token in self.tokens]
        rising = ids == sorted({*ids})
        within = 0 < len(ids) <= self.rows and rising and 0 <= ids[0] and ids[-1] < self.rows + len(ids)
        expected = f"at most as many as the {self.rows} of the base, with rising ids up to {self.rows + len(ids) - 1}"
        require(within, function, "the new tokens", expected, brief(ids))
        pieces = all(
            token.text and token.pieces and 0 <= min(token.pieces) <= max(token.pieces) < self.rows for token in self.tokens
        )
        require(pieces, function, "the new tokens", "texts that stand for tokens of the base", "others")
        own = selection.get(self.name)
        if own is None or own.shape != self.shape or not _holds(own, self.entries):
            raise ValueError(
                f"{function}: selection must hold the rows of all {len(self.tokens)} new tokens of {self.name!r}, "
                f"whose shape is {self.shape}, got {'nothing of it' if own is None else own}"
            )

    @classmethod
    def from_json(cls, described: Any) -> Extension:
        """From what `asdict` makes of one.

        Raises:
            ValueError: for anything else.
        """
        require(fits(described, EXTENSION), "Extension", "the record", f"an object with {', '.join(EXTENSION)}", "something else")
        tokens = tuple(NewToken(**token | {"pieces": tuple(token["pieces"])}) for token in described["tokens"])
        return cls(**described | {"tokens": tokens})


def _holds(own: Entries, rows: Entries) -> bool:
    """Whether all of these rows are selected; of entries that are too few for that, nothing is made to find out."""
    fewer = own.kind not in ("rows", "elements") or own.count < rows.count
    return not fewer and (own & rows).count == rows.count
