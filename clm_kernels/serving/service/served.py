"""`Served`: a trunk as the service asks it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..trunk import Trunk


class Served:
    """The tasks of a trunk; taggers are asked for their tags alone, however many labels the others are asked for.

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

    def classify(self, texts: list[Any], tasks: list[str], top: int = 1) -> list[Any]:
        found: dict[int, Any] = {}
        for tags in (False, True):
            places = [i for i, name in enumerate(tasks) if self.is_tagger(name) == tags]
            asked = [texts[i] for i in places], [tasks[i] for i in places]
            found |= zip(places, self.trunk.classify(*asked, top=1 if tags else top))
        return [found[i] for i in range(len(texts))]

    def described(self, name: str, prediction: Any) -> dict[str, Any]:
        if self.is_tagger(name):
            return {"tokens": prediction.text, "tags": prediction.label, "probabilities": prediction.probability}
        named = {"text": prediction.text, "label": prediction.label, "probability": prediction.probability}
        best = [{"label": label, "probability": probability} for label, probability in getattr(prediction, "best", ())]
        return named | ({"best": best} if len(best) > 1 else {})
