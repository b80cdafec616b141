"""Findings about labels: unseen, alone, rare, and written in two ways."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from .finding import PLACES, Finding, Place, named
from .normal import MISSING, same_name
from .parts import Part, Seen

NOTHING = MISSING - {"none"}  # which is an honest label


def unknown_labels(seen: Seen) -> Iterator[Finding]:
    """Labels that `train` cannot learn: train lacks them, or has no other."""
    train, *others = seen.parts
    learnt, count = train.counts(len(seen.names)), int((train.counts(len(seen.names)) > 0).sum())
    if count == 1 and len(train):
        yield Finding(
            "one-label", "error", f"label is alone in train: {named(_present(seen, train))}", 1, 1, (), "two are needed"
        )
    for part in others:
        counts = part.counts(len(seen.names))
        lacking = [number for number in range(len(counts)) if counts[number] and not learnt[number]]
        if lacking:
            what = f"{seen.unit} of {part.name} have a label that train lacks: {_named(seen, lacking)}"
            places = part.places(part.rows_of(lacking))
            advice = "label some for train, or take them out"
            total = int(counts.sum())
            yield Finding(f"unseen-{part.name}", "error", what, int(counts[lacking].sum()), total, tuple(places), advice)


def lonely_labels(seen: Seen) -> Iterator[Finding]:
    """Labels of train that another part lacks."""
    train, *others = seen.parts
    learnt = train.counts(len(seen.names))
    for part in others:
        counts = part.counts(len(seen.names))
        lacking = [number for number in range(len(counts)) if learnt[number] and not counts[number]]
        if lacking and len(part):
            what = f"labels of train are not in {part.name}: {_named(seen, lacking)}"
            places = train.places(train.rows_of(lacking))
            advice = f"add some to {part.name}: nothing scores them"
            yield Finding(f"unscored-{part.name}", "note", what, len(lacking), int((learnt > 0).sum()), tuple(places), advice)


def rare_labels(seen: Seen) -> Iterator[Finding]:
    """Labels with few examples in train."""
    train = seen.parts[0]
    counts = train.counts(len(seen.names))
    rare = sorted((number for number in range(len(counts)) if 0 < counts[number] < seen.rare), key=lambda number: counts[number])
    if rare:
        what = f"labels have fewer than {seen.rare} {seen.unit} in train: {_named(seen, rare)}"
        advice = "label more, or join them with others"
        places = train.places(train.rows_of(rare[:PLACES]))
        yield Finding("rare-label", "warning", what, len(rare), int((counts > 0).sum()), tuple(places), advice)


def labels_alike(seen: Seen) -> Iterator[Finding]:
    """Labels that differ by case or space alone."""
    alike = defaultdict(list)
    for label, number in seen.names.items():
        alike[same_name(label)].append(number)
    several = [numbers for numbers in alike.values() if len(numbers) > 1]
    if several:
        total = sum(part.counts(len(seen.names)) for part in seen.parts)
        rarer = [number for numbers in several for number in sorted(numbers, key=lambda number: -total[number])[1:]]
        what = f"labels differ by case or space alone: {_named(seen, [number for numbers in several for number in numbers])}"
        advice = "write each in one way"
        count = sum(map(len, several))
        yield Finding("alike-label", "warning", what, count, len(seen.names), _places(seen, rarer), advice)


def labels_without_meaning(seen: Seen) -> Iterator[Finding]:
    """Labels that are how a program writes a missing value."""
    found = [number for label, number in seen.names.items() if label.strip().casefold() in NOTHING]
    if found:
        counts = sum(part.counts(len(seen.names)) for part in seen.parts)
        what = f"{seen.unit} have the label {_named(seen, found)}"
        advice = "take them out, or label them"
        yield Finding("nan-label", "warning", what, int(counts[found].sum()), int(counts.sum()), _places(seen, found), advice)


def _present(seen: Seen, part: Part) -> list[str]:
    counts = part.counts(len(seen.names))
    return [label for label, number in seen.names.items() if counts[number]]


def _named(seen: Seen, numbers: Iterable[int]) -> str:
    labels = seen.labels
    return named(labels[number] for number in numbers)


def _places(seen: Seen, numbers: list[int]) -> tuple[Place, ...]:
    return tuple([place for part in seen.parts for place in part.places(part.rows_of(numbers))][:PLACES])
