"""`Recipe`: what must be known of a training run to use its result, as the files that keep results hold it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from .errors import require

VERSION = 1
TEXT = "{text}"


@dataclass(frozen=True)
class Recipe:
    """How a result was made, and how it is to be used. Whatever is empty or None is not known, or the model's own.

    Attributes:
        task: ``"sequence"``, ``"token"`` or what else was learnt, or nothing.
        model: directory or name of the base model.
        max_length: tokens after which a text is cut off; None for as many as the model takes.
        pooling: what a text classifier's head reads, as `set_pooling` takes it.
        bidirectional: the layers that attend to both sides: the first, and one past the last; None for none.
        template: words around every text, where ``{text}`` stands for it.
        dtype: of the weights, by torch's name without ``torch.``.
        details: anything else worth keeping for people, as JSON can hold it: config, scores, machine.
        version: of these fields.
        mix_layers: whether the head reads a mix of all layers.
    """

    task: str = ""
    model: str = ""
    max_length: int | None = None
    pooling: str = ""
    bidirectional: tuple[int, int] | None = None
    template: str = TEXT
    dtype: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    version: int = VERSION
    mix_layers: bool = False

    def __post_init__(self) -> None:
        require(self.version == VERSION, "Recipe", "version", f"{VERSION}, the one that is known here", repr(self.version))
        require(isinstance(self.task, str), "Recipe", "task", "the name of a task, or nothing", repr(self.task))
        length = self.max_length
        require(length is None or (type(length) is int and length > 0), "Recipe", "max_length", "a number or None", repr(length))
        for name in ("model", "pooling", "template", "dtype"):
            value = getattr(self, name)
            require(isinstance(value, str), "Recipe", name, "a text", repr(value))
        mixed = self.mix_layers
        require(isinstance(mixed, bool), "Recipe", "mix_layers", "True or False", repr(mixed))
        pair, expected = self.bidirectional, "the first layer and one past the last, or None"
        known = isinstance(pair, (tuple, list)) and [type(number) for number in pair] == [int, int]
        require(pair is None or known, "Recipe", "bidirectional", expected, repr(pair))
        require(isinstance(self.details, Mapping), "Recipe", "details", "a mapping", type(self.details).__name__)
        object.__setattr__(self, "bidirectional", None if pair is None else tuple(pair))

    def to_json(self) -> str:
        """All fields as one JSON object."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """The inverse of `to_json`.

        Raises:
            ValueError: for another version, or anything else.
        """
        described = json.loads(text)
        require(isinstance(described, dict), "Recipe", "the record", "an object", type(described).__name__)
        version = described.get("version")
        require(version == VERSION, "Recipe", "version", f"{VERSION}, the one that is known here", repr(version))
        unknown = sorted(described.keys() - {each.name for each in fields(cls)})
        require(not unknown, "Recipe", "the record", f"one of version {VERSION}", f"one with {', '.join(unknown)}")
        return cls(**described)

    @classmethod
    def from_made(cls, text: str) -> Recipe:
        """From the record of files older than this class: a dict ``made`` that held these names, and any that a caller gave."""
        described = json.loads(text)
        require(isinstance(described, dict), "Recipe", "the record", "an object", type(described).__name__)
        ours = {name: value for name, value in described.items() if cls._takes(name, value)}
        return cls(**ours, details={name: value for name, value in described.items() if name not in ours})

    @classmethod
    def _takes(cls, name: str, value: Any) -> bool:
        if name in ("details", "version") or name not in {each.name for each in fields(cls)}:
            return False
        try:
            cls(**{name: value})
        except ValueError:
            return False
        return True

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Recipe:
        """From a file's metadata, of this or of an older form.

        Raises:
            KeyError: if there is no record.
            ValueError: if it is another version's, or not what it should be.
        """
        return cls.from_json(metadata["recipe"]) if "recipe" in metadata else cls.from_made(metadata["made"])
