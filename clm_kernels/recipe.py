"""`Recipe`: what must be known of a training run to use its result, as the files that keep results hold it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from .errors import require
from .strangers import brief, parse_json

VERSION = 1
TEXT = "{text}"
LONGEST = 4096  # characters of a path or a template


@dataclass(frozen=True)
class Recipe:
    """How a result was made, and how it is to be used. Whatever is empty or None is not known, or the model's own.

    Attributes:
        task: ``"sequence"``, ``"token"`` or what else was learnt, or nothing.
        model: name of the base model's directory, or on the hub.
        max_length: tokens after which a text is cut off; None for as many as the model takes.
        pooling: what a text classifier's head reads, as `set_pooling` takes it.
        bidirectional: the layers that attend to both sides: the first, and one past the last; None for none.
        template: words around every text, where ``{text}`` stands for it.
        dtype: of the weights, by torch's name without ``torch.``.
        details: anything else worth keeping, as JSON can hold it: config, scores, machine; under ``calibration`` what
            validation tells of the probabilities.
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
        _check_version(self.version)
        require(_is_text(self.task), "Recipe", "task", "the name of a task, or nothing", brief(self.task))
        length = self.max_length
        known = length is None or (type(length) is int and 0 < length < 2**31)
        require(known, "Recipe", "max_length", "a number from 1 to 2**31 - 1 or None", brief(length))
        for name in ("model", "pooling", "template", "dtype"):
            value = getattr(self, name)
            require(_is_text(value), "Recipe", name, f"a text of at most {LONGEST} characters", brief(value))
        require(self.template.count(TEXT) == 1, "Recipe", "template", f"a text that holds {TEXT} once", brief(self.template))
        known = re.fullmatch(r"(b?float\d+(_\w{1,16})?)?", self.dtype) is not None
        require(known, "Recipe", "dtype", "a floating dtype of torch by its name, or nothing", brief(self.dtype))
        mixed = self.mix_layers
        require(isinstance(mixed, bool), "Recipe", "mix_layers", "True or False", brief(mixed))
        pair, expected = self.bidirectional, "the first layer and one past the last, or None"
        known = isinstance(pair, (tuple, list)) and [type(number) for number in pair] == [int, int]
        require(pair is None or known, "Recipe", "bidirectional", expected, brief(pair))
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
        described = parse_json(text, "Recipe", "the record")
        require(isinstance(described, dict), "Recipe", "the record", "an object", type(described).__name__)
        _check_version(described.get("version"))
        unknown = min(described.keys() - {each.name for each in fields(cls)}, default=None)
        require(unknown is None, "Recipe", "the record", f"one of version {VERSION}", f"one with {brief(unknown)}")
        return cls(**described)

    @classmethod
    def from_made(cls, text: str) -> Recipe:
        """From the record of files older than this class: a dict ``made`` that held these names, and any that a caller gave."""
        described = parse_json(text, "Recipe", "the record")
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
            ValueError: if there is no record, or it is another version's, or not what it should be.
        """
        require("recipe" in metadata or "made" in metadata, "Recipe", "the record", "in the metadata", "none")
        return cls.from_json(metadata["recipe"]) if "recipe" in metadata else cls.from_made(metadata["made"])


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= LONGEST


def _check_version(version: Any) -> None:
    known = type(version) is int and version == VERSION
    require(known, "Recipe", "version", f"{VERSION}, the one that is known here", brief(version))
