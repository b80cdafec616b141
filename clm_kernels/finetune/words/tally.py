"""Sums of what words hold, in the form in which a checkpoint keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from .reading import Reader
from .watching import Batch


@dataclass
class Tally:
    """Energy of words in some batches.

    Attributes:
        since: training step with which the batches begin.
        batches: how many there have been.
        words: label -> word -> its energy, of which a batch has 1, and how often it was seen.
    """

    since: int = 0
    batches: int = 0
    words: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, batches: Sequence[Batch], read: Reader) -> None:
        """The words of more batches."""
        for batch in batches:
            self.batches += 1
            for ids, labels, held in batch.rows():
                for word in read.find(ids, labels):
                    sums = self.words.setdefault(word.label, {}).setdefault(word.key, [0.0, 0])
                    sums[0] += sum(held[i] for i in word.tokens)
                    sums[1] += 1

    def shares(self) -> dict[str, dict[str, float]]:
        """Label -> word -> its part of the label's energy; labels that hold none are left out."""
        totals = {label: sum(energy for energy, _ in words.values()) for label, words in self.words.items()}
        return {
            label: {word: energy / totals[label] for word, (energy, _) in words.items()}
            for label, words in self.words.items()
            if totals[label]
        }

    def state(self) -> dict:
        """What `Tally(**state)` makes again."""
        return asdict(self)
