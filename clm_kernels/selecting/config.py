"""`Select`: what is selected. `train`, `choose`, `estimate`, `profile` and the command line take their defaults from it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ..defaults import BLOCK, DENSITY, DENSITY_BLOCKS, DENSITY_GROUPS, EXAMPLES, LAYERS, UNITS
from ..errors import listed, require
from ..options import check_choices, check_counts, option

RULES = ("auto", "fisher", "tokens", "saliency", "magnitude", "random")
_option = partial(option, "Selection")


@dataclass(frozen=True)
class Select:
    """Which entries are trained; each field is explained by its own help text."""

    select: str = _option(
        "auto",
        "What scores the units; tokens: fisher where words stand that tell the label; auto: tokens, for tags fisher; but see kind.",
        RULES,
    )
    density: float | None = _option(
        None,
        "Part of the eligible weights' entries that is trained, in (0, 1]. (default: 1/8 of groups, 0.1 of blocks in the kind auto, else 0.02)",
    )
    backward: float | None = _option(None, "Part of full fine-tuning's backward FLOPs that a step may take, in (0, 1].")
    kind: str = _option(
        "auto",
        f"What a selected unit is: {', '.join(UNITS)}, or several joined by +; or elements; or groups of strips, dealt by chance; auto: groups, blocks "
        "drawn by chance if another size of block is given, or columns if select, backward or per is.",
    )
    block: int = _option(BLOCK, "Height and width of a block, for the kind blocks.")
    layers: str = _option("all", "Layers whose weights are eligible.", LAYERS)
    per: str = _option(
        "auto", "Whether all units compete, or each weight gives the same part; auto: rows and columns by weight.",
        ("auto", "model", "weight"),
    )  # fmt: skip
    biases: bool = _option(True, "Train the biases too.")
    norms: bool = _option(True, "Train the normalisation weights too.")
    sensitivity_examples: int = _option(
        EXAMPLES, f"Examples that score the units; they and some more, up to {EXAMPLES}, warm up the head."
    )
    selection: str = _option("", "Selection file to train, instead of measuring a sensitivity.")

    def check(self) -> None:
        """Raises ValueError, one line, for the first field that cannot be right."""
        check_choices(self)
        known = f"'auto', 'elements', 'groups', {listed(UNITS)}, or several of these joined by +"
        one = self.kind in ("auto", "elements", "groups") or set(self.kind.split("+")) <= set(UNITS)
        require(one, "train", "kind", known, repr(self.kind))
        dealt = self.kind != "groups" or self.select in ("auto", "random")
        require(dealt, "train", "select", "auto or random for groups, which are dealt by chance", repr(self.select))
        require(self.density is None or 0 < self.density <= 1, "train", "density", "in (0, 1]", self.density)
        require(self.backward is None or 0 < self.backward <= 1, "train", "backward", "in (0, 1]", self.backward)
        check_counts(self, "sensitivity_examples", "block")

    @property
    def scored(self) -> bool:
        """Whether something is asked for that only scores, or a file, can tell."""
        return bool(self.selection) or self.backward is not None or (self.select, self.per) != ("auto", "auto")

    @property
    def by_chance(self) -> bool:
        """Whether units are drawn, and nothing is scored."""
        return not self.selection and self.resolved().select == "random"

    @property
    def bounded(self) -> bool:
        """Whether it may leave lower layers frozen."""
        return self.layers != "all" or self.backward is not None or bool(self.selection)

    @property
    def blocks(self) -> tuple[int, int]:
        return self.block, self.block

    @property
    def share(self) -> float:
        """The density, or what it is where nobody says: of rows, columns and the like."""
        return DENSITY if self.density is None else self.density

    def resolved(self) -> Select:
        """The same with what ``auto`` and the defaults stand for."""
        meant: dict[str, Any] = {"density": DENSITY, "kind": "columns"}
        by_chance = self.kind == "auto" and not self.scored
        if by_chance and self.block != BLOCK:
            meant = {"density": DENSITY_BLOCKS, "kind": "blocks", "select": "random"}
        elif by_chance or self.kind == "groups":
            meant = {"density": DENSITY_GROUPS, "kind": "groups", "select": "random"}
        return replace(self, **{name: value for name, value in meant.items() if getattr(self, name) in (None, "auto")})
