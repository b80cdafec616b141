"""New tokens of a model: what its tokenizer and its embedding have that the base's have not."""

from __future__ import annotations

from dataclasses import dataclass

from .selection import Entries, Selection


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
        """Raises ValueError unless the selection holds every new row."""
        own = selection.get(self.name)
        if own is None or own.shape != self.shape or (own & self.entries).count != self.entries.count:
            raise ValueError(
                f"{function}: selection must hold the rows of all {len(self.tokens)} new tokens of {self.name!r}, "
                f"whose shape is {self.shape}, got {'nothing of it' if own is None else own}"
            )

    @classmethod
    def from_json(cls, described: dict) -> Extension:
        """From what `asdict` makes of one; raises TypeError or KeyError for anything else."""
        tokens = tuple(NewToken(**token | {"pieces": tuple(token["pieces"])}) for token in described["tokens"])
        return cls(**described | {"tokens": tokens})
