"""Texts of one task on their way through a model: as batches of tokens, and back as predictions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from transformers import DataCollatorWithPadding

from ..finetune.encode import Encoded
from ..finetune.judging.ranking import Predicted, Ranking
from ..finetune.split import Split
from .member import Member

Found = dict[int, tuple[Tensor, Tensor]]  # probabilities and numbers of the best labels, by the row of the encoded texts


class Reading:
    """Some texts as a task reads them.

    Attributes:
        member: the task.
        encoded: their tokens, longest text first; one object for all tasks that read them the same way.
        found: what has been found of each row so far.
    """

    def __init__(self, member: Member, texts: Sequence[Any], ranking: Ranking, encoded: Encoded | None = None):
        classifier = member.classifier
        self.member, self.found, self._ranking = member, Found(), ranking
        if encoded is None:
            split = Split("", list(texts), [None] * len(texts), range(len(texts)))
            encoded = classifier._task.encode(split, None, classifier.tokenizer, classifier.max_length, True, classifier.template)
        self.encoded = encoded
        classifier.cut += encoded.cut
        self._columns = encoded.dataset.remove_columns("length")

    def __len__(self) -> int:
        return len(self._columns)

    @property
    def lengths(self) -> Sequence[int]:
        """How many tokens each row has."""
        return self.encoded.dataset["length"]

    def row(self, i: int) -> dict[str, Any]:
        return self._columns[i]

    def batches(self, batch_size: int) -> Iterator[tuple[range, Any]]:
        """The rows of each batch and its tensors, as `Classifier.predict` makes them."""
        begin = 0
        for columns in self._columns.iter(batch_size):
            batch = padded(self.member, [dict(zip(columns, values)) for values in zip(*columns.values())])
            size = len(batch["input_ids"])
            yield range(begin, begin + size), batch
            begin += size

    def take(self, rows: Iterable[int], logits: Tensor) -> None:
        """Keeps what the logits of these rows say."""
        probabilities, numbers = self._ranking.best(logits)
        self.found |= dict(zip(rows, zip(probabilities, numbers), strict=True))

    def predictions(self) -> list[Predicted]:
        """Of all texts, in the order in which they came."""
        where = np.argsort(np.fromiter(self.encoded.split.where, np.int64, len(self)))
        task, labels = self.member.classifier._task, self.member.labels
        return [
            self._ranking.decode(task, self.encoded, i, numbers, probabilities, labels)
            for i in where.tolist()
            for probabilities, numbers in [self.found[i]]
        ]


def padded(member: Member, rows: list[dict[str, Any]]) -> Any:
    """A batch of encoded texts on the model's device."""
    collate: Any = DataCollatorWithPadding(member.classifier.tokenizer)
    return collate(rows).to(member.classifier.model.device)


def readings_of(
    members: Mapping[str, Member], texts: Mapping[str, list[Any]], top: int, reject: float | None
) -> dict[str, Reading]:  # fmt: skip
    """The texts of each task, encoded once for all tasks that read the same texts the same way.

    Raises:
        ValueError: for what a task's classifier cannot do.
    """
    rankings = {name: _ranking(members[name], top, reject) for name in texts}
    known: dict[Any, Encoded] = {}
    readings = {}
    for name, some in texts.items():
        key = members[name].reads, tuple(map(str, some))
        readings[name] = Reading(members[name], some, rankings[name], known.get(key))
        known[key] = readings[name].encoded
    return readings


def _ranking(member: Member, top: int, reject: float | None) -> Ranking:
    classifier = member.classifier
    return Ranking.of(classifier.calibration, classifier._task, len(member.labels), top, reject)
