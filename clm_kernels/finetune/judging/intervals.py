"""How sure a score is, and whether two classifiers differ: bootstrap over texts, and McNemar's exact test."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..metrics import spans
from .items import Items
from .logits import Judged

DRAWS, SEED, LEVEL = 1000, 1, 0.95
Scorer = Callable[[NDArray], float]  # of how often each text was drawn


class Interval(NamedTuple):
    """A score, and the middle `LEVEL` of what it was over the draws."""

    score: float
    low: float
    high: float


class Difference(NamedTuple):
    """What a second classifier scores more than the first, its interval, and how likely as much is if neither is better."""

    difference: float
    low: float
    high: float
    p: float


class McNemar(NamedTuple):
    """How many texts one alone has right, and how likely a split as uneven is by chance, both being as good."""

    only_first: int
    only_second: int
    p: float


def scorers(found: Judged | Items, names: Sequence[str]) -> dict[str, Scorer]:
    """The scores of these names (``accuracy``, ``macro_f1``, ``f1``), as functions of how often each text is counted."""
    made = {"accuracy": _accuracy, "macro_f1": _macro_f1, "f1": _span_f1}
    return {name: made[name](found) for name in names}


def _accuracy(found: Judged | Items) -> Scorer:
    texts = len(found.split)
    right = np.bincount(found.text, found.gold == found.predicted, texts)
    size = np.bincount(found.text, minlength=texts)
    return lambda times: float(times @ right) / max(1.0, float(times @ size))


def _macro_f1(found: Judged | Items) -> Scorer:
    labels, seen, hit = len(found.label_names), found.seen, found.gold == found.predicted

    def score(times: NDArray) -> float:
        weight = times[found.text]
        either = np.bincount(found.gold, weight, labels) + np.bincount(found.predicted[seen], weight[seen], labels)
        hits = np.bincount(found.gold[hit], weight[hit], labels)
        return float(np.mean(2 * hits[either > 0] / either[either > 0])) if either.any() else 0.0

    return score


def _span_f1(found: Judged | Items) -> Scorer:
    counts = []
    for gold, predicted in zip(*tags_of(found), strict=True):
        truth, guess = spans(gold), spans(predicted)
        counts.append((len(truth & guess), len(truth) + len(guess)))
    hits, either = np.array(counts, float).reshape(-1, 2).T
    return lambda times: float(2 * (times @ hits) / (times @ either)) if times @ either else 0.0


def tags_of(found: Judged | Items) -> tuple[list[list[str]], list[list[str]]]:
    """Gold and predicted tags of every sentence; a word that was cut off has O."""
    ends = np.cumsum(np.bincount(found.text, minlength=len(found.split)))[:-1]
    names = [*found.label_names, "O"]  # the last one is `CUT_OFF`
    gold, predicted = (np.split(numbers, ends) for numbers in (found.gold, found.predicted))
    return [[names[i] for i in row] for row in gold], [[names[i] for i in row] for row in predicted]


def bootstrap(scores: Mapping[str, Scorer], texts: int, draws: int = DRAWS, seed: int = SEED) -> dict[str, Interval]:
    """Each score with its percentile interval over `draws` draws of as many texts, with replacement."""
    values = _over_draws(scores, texts, draws, seed)
    return {name: Interval(score(np.ones(texts)), *_middle(values[name])) for name, score in scores.items()}


def paired_bootstrap(
    first: Mapping[str, Scorer], second: Mapping[str, Scorer], texts: int, draws: int = DRAWS, seed: int = SEED
) -> dict[str, Difference]:
    """What the second scores more than the first on the same draws of texts; p is two-sided, at least 2 / (draws + 1)."""
    a, b = (_over_draws(scores, texts, draws, seed) for scores in (first, second))
    found, whole = {}, np.ones(texts)
    for name, score in first.items():
        more = b[name] - a[name]
        tail = min((more <= 0).sum(), (more >= 0).sum())
        p = min(1.0, 2 * (int(tail) + 1) / (draws + 1))
        found[name] = Difference(second[name](whole) - score(whole), *_middle(more), p)
    return found


def mcnemar(first: NDArray, second: NDArray) -> McNemar:
    """Of which texts each has right: the exact two-sided test over those that one of them alone has right.

    Q. McNemar, Psychometrika 12 (1947); exact by the binomial distribution.
    """
    only = int((first & ~second).sum()), int((second & ~first).sum())
    count = sum(only)
    halves = [math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1) for k in range(min(only) + 1)]
    return McNemar(*only, min(1.0, 2 * math.fsum(math.exp(term - count * math.log(2)) for term in halves)))


def _over_draws(scores: Mapping[str, Scorer], texts: int, draws: int, seed: int) -> dict[str, NDArray]:
    rng, values = np.random.default_rng(seed), {name: np.empty(draws) for name in scores}
    for draw in range(draws):
        times = np.bincount(rng.integers(texts, size=texts), minlength=texts)
        for name, score in scores.items():
            values[name][draw] = score(times)
    return values


def _middle(values: NDArray) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
