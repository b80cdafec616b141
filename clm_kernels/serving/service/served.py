"""`Served`: a trunk as the service asks it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..trunk import Trunk


class Served:
    """The tasks of a trunk. Taggers, and tasks whose texts may have several labels, are asked for what they give alone, however many
    labels of each text the others are asked for; of these, one that has fewer gives all.

    Args:
        trunk: may change while it is served.
    """

    def __init__(self, trunk: Trunk):
        self.trunk = trunk

    @property
    def names(self) -> Sequence[str]:
        return list(self.trunk.tasks)

    def labels(self, name: str) -> Sequence[str]:
        return self.trunk.tasks[name]

    def is_tagger(self, name: str) -> bool:
        return self.trunk.is_tagger(name)

    def has_several(self, name: str) -> bool:
        return self.trunk.kind(name).several

    def classify(self, texts: list[Any], tasks: list[str], top: int = 1) -> list[Any]:
        tops = {name: self._top(name, top) for name in set(tasks)}
        found: dict[int, Any] = {}
        for own in set(tops.values()):
            places = [i for i, name in enumerate(tasks) if tops[name] == own]
            asked = [texts[i] for i in places], [tasks[i] for i in places]
            found |= zip(places, self.trunk.classify(*asked, top=own))
        return [found[i] for i in range(len(texts))]

    def _top(self, name: str, top: int) -> int:
        return 1 if self.is_tagger(name) or self.has_several(name) else min(top, len(self.labels(name)))

    def shares(self, name: str, prediction: Any) -> dict[str, float]:
        if self.has_several(name):
            return dict(zip(self.labels(name), prediction.shares.tolist(), strict=True))
        return dict(prediction.best)

    def described(self, name: str, prediction: Any) -> dict[str, Any]:
        named = dict(zip(self.trunk.kind(name).fields, prediction[:3], strict=True))
        best = [{"label": label, "probability": probability} for label, probability in getattr(prediction, "best", ())]
        return named | ({"best": best} if len(best) > 1 else {})
