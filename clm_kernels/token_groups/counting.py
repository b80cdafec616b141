"""How often runs of pieces occur in each class, in bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from .sieve import Sieve
from .tokenised import Tokenised, TokenisedTexts

Run = tuple[int, ...]  # ids of the pieces


@dataclass
class Counts:
    """Counts of runs.

    A text with one label counts once for every run in it. Of a text with a label for each word, every occurrence of a run
    counts once for each label that its words have.

    Attributes:
        by_class: run -> class -> count.
        occurrences: run -> how often it occurs at all.
        sizes: class -> how many texts, or words, it has.
        capacity: how many runs are kept at most. Where there are more, the rarest are dropped (lossy counting: Manku &
            Motwani, VLDB 2002).
        missed: by how much a count may be too small for that.
    """

    capacity: int = 500_000
    by_class: dict[Run, dict[str, int]] = field(default_factory=dict)
    occurrences: Counter[Run] = field(default_factory=Counter)
    sizes: Counter[str] = field(default_factory=Counter)
    missed: int = 0
    _before: dict[Run, int] = field(default_factory=dict)  # how often a run may have been dropped before

    def add_text(self, runs: Iterable[Run], label: str) -> None:
        self.sizes[label] += 1
        found = list(runs)
        self.occurrences.update(found)
        for run in dict.fromkeys(found):
            self._add(run, label)
        self._drop_rare()

    def add_words(self, runs: Iterable[tuple[Run, set[str]]], labels: Iterable[str]) -> None:
        """Runs with the labels of their words, and the label of every word of the text."""
        self.sizes.update(labels)
        for run, own in runs:
            self.occurrences[run] += 1
            for label in own:
                self._add(run, label)
        self._drop_rare()

    def _add(self, run: Run, label: str) -> None:
        known = self.by_class.get(run)
        if known is not None:
            known[label] = known.get(label, 0) + 1
            return
        self.by_class[run] = {label: 1}  # a Counter for each of half a million runs would double the time
        if self.missed:
            self._before[run] = self.missed

    def _drop_rare(self) -> None:
        if len(self.occurrences) <= self.capacity:
            return
        room = self.capacity // 8  # else every text that follows would have all runs looked through
        while len(self.occurrences) > self.capacity - room:
            self.missed += 1
            for run in [run for run, count in self.occurrences.items() if count + self._before.get(run, 0) <= self.missed]:
                del self.occurrences[run], self.by_class[run]
                self._before.pop(run, None)


def count(texts: TokenisedTexts, longest: int, minimum: int, capacity: int) -> Counts:
    """Counts of every run that may have `minimum` of them, by two passes over the texts; all counts are exact.

    Where more than `capacity` runs are left to count, those that came through are counted once more: runs of no more than
    `missed` texts (or words) may be lacking then.
    """
    sieve = Sieve(minimum, texts.tokens * min(longest, 8))
    for text in texts:
        if texts.words:
            for run, labels in _with_labels(text, longest):
                sieve.add(run, len(labels))
        else:
            for run in {run for run, _ in runs_of(text.ids, text.word_ids, longest)}:
                sieve.add(run)
    counts = _counted(texts, longest, capacity, sieve)
    if not counts.missed:
        return counts
    exact = _counted(texts, longest, capacity, frozenset(counts.occurrences))
    exact.missed = counts.missed
    return exact


def _counted(texts: TokenisedTexts, longest: int, capacity: int, runs: Container[Run]) -> Counts:
    counts = Counts(capacity)
    for text in texts:
        if texts.words:
            counts.add_words((found for found in _with_labels(text, longest) if found[0] in runs), text.labels)
        else:
            counts.add_text((run for run, _ in runs_of(text.ids, text.word_ids, longest) if run in runs), text.labels[0])
    return counts


def _with_labels(text: Tokenised, longest: int) -> Iterator[tuple[Run, set[str]]]:
    for run, words in runs_of(text.ids, text.word_ids, longest):
        yield run, {text.labels[word] for word in words}


def runs_of(ids: Sequence[int], word_ids: Sequence[int | None], longest: int) -> Iterator[tuple[Run, range]]:
    """Every run of whole words with at most `longest` pieces, and the words it is made of."""
    words, ids = _words(word_ids), tuple(ids)
    for first, (number, begin, _) in enumerate(words):
        for last, _, end in words[first : first + longest]:
            if end - begin > longest:
                break
            yield ids[begin:end], range(number, last + 1)


def _words(word_ids: Sequence[int | None]) -> list[tuple[int, int, int]]:
    """Number of each word, and where its pieces begin and end; special tokens belong to none."""
    words: list[tuple[int, int, int]] = []
    for position, number in enumerate(word_ids):
        if number is None or number < 0:
            continue
        if words and words[-1][0] == number:
            words[-1] = number, words[-1][1], position + 1
        else:
            words.append((number, position, position + 1))
    return words
