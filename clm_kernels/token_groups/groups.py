"""Token groups: the runs of one to four pieces that say something about the label."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import require
from ..files import write_atomically
from ..strangers import MEGABYTE, fits, read_json
from .association import MEASURES, log_odds
from .counting import Counts, Run, count
from .tokenised import TokenisedTexts

OUTSIDE = "O"  # the tag of words in no span
RUNS = 10_000  # that are scored at a time
LARGEST = 16 * MEGABYTE
GROUP = {
    "text": str, "pieces": [str], "ids": [int], "label": str, "score": float, "z": float, "count": int, "total": int
}  # fmt: skip
GROUPS = {
    "by_class": {str: [GROUP]}, "sizes": {str: int}, "measure": str, "minimum": int, "longest": int, "missed?": int, "empty?": int
}  # fmt: skip


@dataclass(frozen=True)
class TokenGroup:
    """A run of pieces, and the class that it speaks for.

    Attributes:
        text: the words as the tokenizer writes them.
        pieces, ids: its pieces, as strings and as ids.
        label: the class.
        score: of the association, by the measure that was asked for.
        z: z-score of the weighted log-odds, whatever the measure.
        count: texts (or words) of the class that have it.
        total: of all classes.
    """

    text: str
    pieces: tuple[str, ...]
    ids: Run
    label: str
    score: float
    z: float
    count: int
    total: int


@dataclass(frozen=True)
class TokenGroups:
    """The groups of every class, best first; a run may speak for several classes.

    Attributes:
        by_class: class -> its groups; empty for a class of which nothing is said.
        sizes: class -> texts, or words.
        measure, minimum, longest: as they were asked for.
        missed: runs of no more texts (or words) than this may be lacking, for there were more than memory allows; mostly 0.
        empty: texts in which the tokenizer found nothing; they were left out.
    """

    by_class: dict[str, list[TokenGroup]]
    sizes: dict[str, int]
    measure: str
    minimum: int
    longest: int
    missed: int = 0
    empty: int = 0
    _runs: frozenset[Run] = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        object.__setattr__(self, "_runs", frozenset(group.ids for group in self))

    def __iter__(self) -> Iterator[TokenGroup]:
        return (group for groups in self.by_class.values() for group in groups)

    def __len__(self) -> int:
        return sum(map(len, self.by_class.values()))

    def positions(self, ids: Sequence[int]) -> list[bool]:
        """Which positions of a tokenised text belong to a group."""
        inside = [False] * len(ids)
        for begin in range(len(ids)):
            for end in range(begin + 1, min(begin + self.longest, len(ids)) + 1):
                if tuple(ids[begin:end]) in self._runs:
                    inside[begin:end] = [True] * (end - begin)
        return inside

    def save(self, path: str | Path) -> None:
        """Writes them as JSON."""
        write_atomically(path, (json.dumps(self.as_dict(), ensure_ascii=False, indent=1) + "\n").encode())

    def as_dict(self) -> dict[str, Any]:
        """What `save` writes."""
        return {name: value for name, value in asdict(self).items() if name != "_runs"}

    @classmethod
    def load(cls, path: str | Path) -> TokenGroups:
        """Reads what `save` wrote.

        Raises:
            ValueError: if the file holds something else.
        """
        what = "token groups as `save` writes them"
        content = read_json(path, "TokenGroups.load", what, most=LARGEST)
        require(fits(content, GROUPS), "TokenGroups.load", repr(str(path)), what, "fields of other names or types")
        content["by_class"] = {label: [_group(item) for item in groups] for label, groups in content["by_class"].items()}
        return cls(**content)


def _group(item: dict) -> TokenGroup:
    return TokenGroup(**item | {"pieces": tuple(item["pieces"]), "ids": tuple(item["ids"])})


def token_groups(
    examples: Iterable[tuple[str | Sequence[str], str | Sequence[str]]],
    tokenizer,
    *,
    measure: str = "log-odds",
    minimum: int = 5,
    longest: int = 4,
    top: int = 50,
    capacity: int = 500_000,
) -> TokenGroups:
    """The runs of whole words that say most about the label.

    The texts are read once, a thousand at a time, and their ids go into a temporary file; memory does not grow with their
    number beyond what `capacity` and 64 MB take. Every count is exact; only where more than `capacity` runs may be frequent
    enough can some of no more than ``missed`` texts be lacking. A run is left out where it never stands but inside a longer
    one. In a class of fewer than two texts nothing is found.

    Args:
        examples: (text, label) pairs; or (words, a tag for every word), of which ``B-`` and ``I-`` are taken off, and words
            without a span count as a class that has no groups.
        tokenizer: a fast tokenizer of transformers.
        measure: what ranks them: ``"log-odds"`` (weighted, with a Dirichlet prior), ``"chi-squared"`` or
            ``"mutual-information"``.
        minimum: texts (or words) that must have the run.
        longest: pieces of a run, at most.
        top: groups of a class, at most.
        capacity: runs that are counted at a time, at most.

    Raises:
        ValueError: for arguments out of range, a tokenizer without pieces of words, or no text with anything in it.
    """
    require(measure in MEASURES, "token_groups", "measure", f"one of {', '.join(MEASURES)}", repr(measure))
    for name, value in (("minimum", minimum), ("longest", longest), ("top", top), ("capacity", capacity)):
        require(value >= 1, "token_groups", name, "at least 1", value)
    fast = getattr(tokenizer, "is_fast", False)
    require(fast, "token_groups", "tokenizer", "a fast one, with pieces of words", type(tokenizer).__name__)
    texts = TokenisedTexts(_without_prefixes(examples), tokenizer)
    require(texts.tokens > 0, "token_groups", "examples", "at least one text with words in it", f"{texts.empty} without")
    counts = count(texts, longest, minimum, capacity)
    by_class = _best(counts, tokenizer, measure, minimum, top)
    return TokenGroups(by_class, dict(counts.sizes), measure, minimum, longest, counts.missed, texts.empty)


def _without_prefixes(examples: Iterable) -> Iterator:
    for text, label in examples:
        yield text, label if isinstance(label, str) else [tag.removeprefix("B-").removeprefix("I-") for tag in label]


def _best(counts: Counts, tokenizer, measure: str, minimum: int, top: int) -> dict[str, list[TokenGroup]]:
    labels = sorted(counts.sizes)
    sizes = np.array([counts.sizes[label] for label in labels], dtype=np.int64)
    found: dict[str, list[TokenGroup]] = {label: [] for label in labels if label != OUTSIDE}
    runs = _standing_alone(counts, minimum)
    for begin in range(0, len(runs), RUNS):
        table = _table(counts, runs[begin : begin + RUNS], labels)
        z = log_odds(table, sizes)
        scores = z if measure == "log-odds" else MEASURES[measure](table, sizes)
        for column, label in enumerate(labels):
            if label == OUTSIDE or sizes[column] < 2:
                continue
            best = np.argsort(-scores[:, column], kind="stable")[:top]
            own = [
                TokenGroup("", (), runs[begin + i], label, float(scores[i, column]), float(z[i, column]),
                           int(table[i, column]), int(table[i].sum()))
                for i in best.tolist()
                if scores[i, column] > 0
            ]  # fmt: skip
            found[label] = sorted(found[label] + own, key=lambda group: -group.score)[:top]
    return {label: [_written(group, tokenizer) for group in groups] for label, groups in found.items()}


def _table(counts: Counts, runs: Sequence[Run], labels: Sequence[str]) -> np.ndarray:
    """Counts ``(runs, labels)``."""
    column_of, table = {label: i for i, label in enumerate(labels)}, np.zeros((len(runs), len(labels)), dtype=np.int64)
    for row, run in zip(table, runs):
        for label, number in counts.by_class[run].items():
            row[column_of[label]] = number
    return table


def _written(group: TokenGroup, tokenizer) -> TokenGroup:
    pieces = tuple(tokenizer.convert_ids_to_tokens(list(group.ids)))
    return replace(group, text=tokenizer.decode(group.ids).strip(), pieces=pieces)


def _standing_alone(counts: Counts, minimum: int) -> list[Run]:
    """The runs that are frequent enough, without those that only occur inside of one longer run; in a fixed order.

    The longer one must be in the same classes: a name does not disappear in "name and verb", whose words have two tags.
    """
    often = {run: count for run, count in counts.occurrences.items() if sum(counts.by_class[run].values()) >= minimum}
    absorbed = {
        part
        for run, count in often.items()
        for begin in range(len(run))
        for end in range(begin + 1, len(run) + 1)
        if end - begin < len(run) and often.get(part := run[begin:end]) == count and counts.by_class[part] == counts.by_class[run]
    }
    return sorted(run for run in often if run not in absorbed)
