"""`ClmConfig`: which entries of which weights an adapter trains."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from peft.config import PeftConfig

from ..defaults import BLOCK, SEED
from ..errors import listed, require
from ..selecting.config import Select
from ..selection import Selection
from .registering import peft_type

GIVEN = "given"  # the kind of an adapter whose entries stand in a selection, or in its file
KINDS = ("groups", "rows", "columns", "blocks", "elements", GIVEN)


@dataclass
class ClmConfig(PeftConfig):
    """An adapter that trains selected entries of frozen weights.

    Args:
        target_modules: names, or a regular expression, of the linear layers (``nn.Linear``, transformers' ``Conv1D``) and
            embeddings to adapt; ``"all-linear"``; by default those that the selection names, or all linear layers in the
            model's numbered layers.
        exclude_modules: of these, the ones that are not.
        modules_to_save: modules that are trained and saved whole: the head. PEFT names it itself if `task_type` is given.
        layers_to_transform, layers_pattern: numbers of the layers to adapt, and the name of the list that they stand in.
        kind: ``"groups"``, as `dealt_groups` deals them; ``"rows"``, ``"columns"``, ``"blocks"`` or ``"elements"``, drawn by
            chance; ``"given"`` where they stand in `selection` or in the adapter's file. Embeddings take rows alone.
        density: share of each weight's entries, in (0, 1]; 1/8 of groups, else 0.02 by default.
        seed: of the draw.
        block: height and width of a block.
        selection: what `choose` found, or the file that it was saved in; in place of a draw. It is not saved with the config,
            for every adapter's file holds its entries.
        biases: also train the biases of the adapted layers, whole.
        init_weights: whether the adapter begins as the base; False for tests alone.

    Raises:
        ValueError: for values out of range, or that exclude each other.
    """

    target_modules: list[str] | str | None = field(default=None, metadata={"help": "Layers to adapt."})
    exclude_modules: list[str] | str | None = field(default=None, metadata={"help": "Layers not to adapt."})
    modules_to_save: list[str] | None = field(default=None, metadata={"help": "Modules trained and saved whole."})
    layers_to_transform: list[int] | int | None = field(default=None, metadata={"help": "Numbers of the layers to adapt."})
    layers_pattern: list[str] | str | None = field(default=None, metadata={"help": "Name of the list of layers."})
    kind: str = field(default="groups", metadata={"help": f"What is selected: {', '.join(KINDS)}."})
    density: float | None = field(default=None, metadata={"help": "Share of each weight's entries."})
    seed: int = field(default=SEED, metadata={"help": "Of the draw."})
    block: int = field(default=BLOCK, metadata={"help": "Height and width of a block."})
    selection: Any = field(default=None, metadata={"help": "A Selection or its file, in place of a draw."})
    biases: bool = field(default=False, metadata={"help": "Train the adapted layers' biases too."})
    init_weights: bool = field(default=True, metadata={"help": "Whether the adapter begins as the base."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = peft_type()
        self.target_modules, self.exclude_modules = _as_set(self.target_modules), _as_set(self.exclude_modules)
        given = self.selection is not None
        if given:
            known = isinstance(self.selection, (Selection, str, os.PathLike))
            require(known, "ClmConfig", "selection", "a Selection or the path of one", type(self.selection).__name__)
            require(self.density is None, "ClmConfig", "density", "left out where a selection is given", self.density)
            fits = self.kind in (GIVEN, type(self).kind)
            require(fits, "ClmConfig", "kind", f"left out, or {GIVEN!r}, where a selection is given", repr(self.kind))
            self.kind = GIVEN
        require(self.kind in KINDS, "ClmConfig", "kind", listed(KINDS), repr(self.kind))
        share = self.density
        known = share is None or (isinstance(share, (int, float)) and 0 < share <= 1)
        require(known, "ClmConfig", "density", "in (0, 1]", repr(share))
        for name, least in (("seed", 0), ("block", 1)):
            value = getattr(self, name)
            require(type(value) is int and value >= least, "ClmConfig", name, f"a whole number of at least {least}", repr(value))
        alone = not isinstance(self.target_modules, str) or self.layers_to_transform is self.layers_pattern is None
        require(alone, "ClmConfig", "target_modules", "names where layers_to_transform or layers_pattern is given", "a pattern")
        patterned = self.layers_pattern is None or self.layers_to_transform is not None
        require(patterned, "ClmConfig", "layers_pattern", "left out where layers_to_transform is", repr(self.layers_pattern))

    @property
    def share(self) -> float:
        """The density, or what it is where nobody says."""
        return Select("random", self.density, kind=self.kind).resolved().share

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON can hold them, without the selection."""
        return asdict(replace(self, selection=None))


def _as_set(names: Any) -> Any:
    return set(names) if isinstance(names, list) else names
