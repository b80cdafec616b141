"""Scores: accuracy, macro-F1, and F1 of tagged spans."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

Span = tuple[str, int, int]  # type, first word, one past the last word


def accuracy(gold: Sequence[str], predicted: Sequence[str | None]) -> float:
    """Part of the predictions that is right; 0 if there are none."""
    return sum(g == p for g, p in zip(gold, predicted, strict=True)) / max(1, len(gold))


def macro_f1(gold: Sequence[str], predicted: Sequence[str | None]) -> float:
    """Mean over the labels of F1 = 2 tp / (2 tp + fp + fn), over every label that is gold or predicted anywhere."""
    names = sorted({*gold, *predicted} - {None})
    number = {name: i for i, name in enumerate(names)}
    gold_counts, predicted_counts, hits = np.zeros((3, len(names)))
    for g, p in zip(gold, predicted, strict=True):
        gold_counts[number[g]] += 1
        if p is not None:
            predicted_counts[number[p]] += 1
            hits[number[g]] += g == p
    return float(np.mean(2 * hits / (gold_counts + predicted_counts))) if names else 0.0


def spans(tags: Sequence[str]) -> set[Span]:
    """Spans of IOB2 (or IOBES) tags, read leniently as seqeval does by default: an I- after O starts a span."""
    found, start, kind, previous = set(), 0, "", "O"
    for i, tag in enumerate([*tags, "O"]):
        prefix, _, name = tag.partition("-")
        begins = prefix != "O" and (prefix in "BS" or previous in "OES" or name != kind)
        if previous != "O" and (begins or prefix == "O"):
            found.add((kind, start, i))
        if begins:
            start = i
        previous, kind = prefix, name
    return found


def span_scores(gold: Iterable[Sequence[str]], predicted: Iterable[Sequence[str]]) -> dict[str, float]:
    """Precision, recall and F1 of the spans of all sentences together (micro average); 0 where nothing is there."""
    gold_count = predicted_count = hits = 0
    for g, p in zip(gold, predicted, strict=True):
        g, p = spans(g), spans(p)
        gold_count, predicted_count, hits = gold_count + len(g), predicted_count + len(p), hits + len(g & p)
    return {
        "precision": hits / predicted_count if predicted_count else 0.0,
        "recall": hits / gold_count if gold_count else 0.0,
        "f1": 2 * hits / (gold_count + predicted_count) if gold_count + predicted_count else 0.0,
    }


def are_spans(tags: Iterable[str]) -> bool:
    """Whether the tags mark spans: O, and others that are B, I, E or S, alone or as a prefix of a type."""
    tags = set(tags) - {"O"}
    return bool(tags) and all(tag[0] in "BIES" and (len(tag) == 1 or (tag[1] == "-" and len(tag) > 2)) for tag in tags)
