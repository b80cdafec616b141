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
        encoded: their tokens and those of other texts, longest first; one object for all tasks that read texts the same way.
        rows: which rows of the encoded texts are theirs, ascending.
        found: what has been found of each row so far.
    """

    def __init__(self, member: Member, ranking: Ranking, encoded: Encoded, texts: range):
        self.member, self.encoded, self.found, self._ranking = member, encoded, Found(), ranking
        self._where = np.fromiter(encoded.split.where, np.int64, len(encoded.split))
        self.rows = np.flatnonzero((self._where >= texts.start) & (self._where < texts.stop))
        self._columns = encoded.dataset.remove_columns("length")

    @property
    def texts(self) -> tuple[int, int]:
        """What tells these texts from all others: two readings with the same are of the same texts, read the same way."""
        return id(self.encoded), int(self.rows[0])

    @property
    def lengths(self) -> Sequence[int]:
        """How many tokens each of the rows has."""
        return self.encoded.dataset[self.rows]["length"]

    def row(self, i: int) -> dict[str, Any]:
        return self._columns[i]

    def batches(self, batch_size: int) -> Iterator[tuple[list[int], Any]]:
        """The rows of each batch and its tensors, as `Classifier.predict` makes them."""
        for begin in range(0, len(self.rows), batch_size):
            rows = self.rows[begin : begin + batch_size].tolist()
            columns = self._columns[rows]
            yield rows, padded(self.member, [dict(zip(columns, values)) for values in zip(*columns.values())])

    def take(self, rows: Iterable[int], logits: Tensor) -> None:
        """Keeps what the logits of these rows say."""
        probabilities, numbers = self._ranking.best(logits)
        self.found |= dict(zip(rows, zip(probabilities, numbers), strict=True))

    def predictions(self) -> list[Predicted]:
        """Of all texts, in the order in which they came."""
        task, labels = self.member.classifier._task, self.member.labels
        rows = self.rows[np.argsort(self._where[self.rows])].tolist()
        return [
            self._ranking.decode(task, self.encoded, i, numbers, probabilities, labels)
            for i, (probabilities, numbers) in ((i, self.found[i]) for i in rows)
        ]


def padded(member: Member, rows: list[dict[str, Any]]) -> Any:
    """A batch of encoded texts on the model's device."""
    collate: Any = DataCollatorWithPadding(member.classifier.tokenizer)
    return collate(rows).to(member.classifier.model.device)


def readings_of(
    members: Mapping[str, Member], texts: Mapping[str, list[Any]], top: int, reject: float | None
) -> dict[str, Reading]:  # fmt: skip
    """The texts of each task, encoded together for all tasks that read texts the same way, and once where they are the same.

    Raises:
        ValueError: for what a task's classifier cannot do.
    """
    rankings = {name: _ranking(members[name], top, reject) for name in texts}
    gathered: dict[Any, list[Any]] = {}
    places: dict[str, range] = {}
    known: dict[Any, range] = {}
    for name, some in texts.items():
        every = gathered.setdefault(members[name].reads, [])
        key = members[name].reads, repr(some)
        if key not in known:
            known[key] = range(len(every), len(every) + len(some))
            every += some
        places[name] = known[key]
    encoded: dict[Any, Encoded] = {}
    for name in texts:
        reads = members[name].reads
        if reads not in encoded:
            encoded[reads] = _encode(members[name], gathered[reads])
    return {name: Reading(members[name], rankings[name], encoded[members[name].reads], places[name]) for name in texts}


def _encode(member: Member, texts: list[Any]) -> Encoded:
    own, split = member.classifier, Split("", texts, [None] * len(texts), range(len(texts)))
    return own._task.encode(split, None, own.tokenizer, own.max_length, True, own.template)


def _ranking(member: Member, top: int, reject: float | None) -> Ranking:
    classifier = member.classifier
    return Ranking.of(classifier.calibration, classifier._task, len(member.labels), top, reject)
