"""Bootstrap over texts, and McNemar's exact test."""

import numpy as np
import pytest

from clm_kernels.finetune.judging.intervals import bootstrap, mcnemar, paired_bootstrap, scorers
from clm_kernels.finetune.judging.logits import Judged
from clm_kernels.finetune.metrics import accuracy, macro_f1, span_scores
from clm_kernels.finetune.split import Split

NAMES = ["B-LOC", "B-PER", "I-PER", "O"]


def judged(gold, predicted, text=None, names=NAMES):
    gold, predicted = np.array(gold), np.array(predicted)
    text = np.arange(len(gold)) if text is None else np.array(text)
    logits = np.eye(len(names))[np.maximum(predicted, 0)].astype(np.float32)
    count = int(text.max()) + 1
    return Judged(names, Split("", [""] * count, [""] * count, [""] * count), gold, logits, text, predicted >= 0, True)


@pytest.fixture
def tagger():
    rng = np.random.default_rng(0)
    text = np.sort(rng.integers(0, 60, 400))
    text = np.unique(text, return_inverse=True)[1]
    gold = rng.integers(0, 4, 400)
    predicted = np.where(rng.random(400) < 0.7, gold, rng.integers(-1, 4, 400))
    return judged(gold, predicted, text)


def test_the_scores_are_those_of_training(tagger):
    gold, predicted = ([[*NAMES, None][i] for i in numbers] for numbers in (tagger.gold, tagger.predicted))
    ones = np.ones(len(tagger.split))
    found = {name: score(ones) for name, score in scorers(tagger, ["accuracy", "macro_f1", "f1"]).items()}
    rows = [np.flatnonzero(tagger.text == i) for i in range(len(tagger.split))]
    sentences = [[[tags[i] or "O" for i in row] for row in rows] for tags in (gold, predicted)]
    assert found == pytest.approx(
        {"accuracy": accuracy(gold, predicted), "macro_f1": macro_f1(gold, predicted), "f1": span_scores(*sentences)["f1"]}
    )


@pytest.mark.parametrize("name", ["accuracy", "macro_f1", "f1"])
def test_a_text_that_is_drawn_twice_counts_twice(tagger, name):
    score = scorers(tagger, [name])[name]
    times = np.random.default_rng(1).integers(0, 3, len(tagger.split))
    rows = [np.flatnonzero(tagger.text == i) for i, n in enumerate(times) for _ in range(n)]
    text = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    repeated = judged(tagger.gold[np.concatenate(rows)], tagger.predicted[np.concatenate(rows)], text)
    assert score(times) == pytest.approx(scorers(repeated, [name])[name](np.ones(len(rows))))


def test_the_interval_of_a_share_is_the_binomial_one():
    found = judged([0] * 400, [0] * 320 + [1] * 80, names=["a", "b"])
    score, low, high = bootstrap(scorers(found, ["accuracy"]), 400, draws=4000)["accuracy"]
    half = 1.96 * (0.8 * 0.2 / 400) ** 0.5
    assert (
        score == pytest.approx(0.8)
        and low == pytest.approx(0.8 - half, abs=0.006)
        and high == pytest.approx(0.8 + half, abs=0.006)
    )


def test_the_seed_alone_decides_the_draws(tagger):
    scores = scorers(tagger, ["f1"])
    same, again, other = (bootstrap(scores, len(tagger.split), draws=50, seed=seed) for seed in (3, 3, 4))
    assert same == again != other


def test_two_that_are_alike_differ_by_nothing(tagger):
    scores = scorers(tagger, ["accuracy", "f1"])
    for difference in paired_bootstrap(scores, scores, len(tagger.split), draws=50).values():
        assert tuple(difference) == (0, 0, 0, 1)


def test_a_better_one_is_found_better():
    gold = np.zeros(300, int)
    first, second = judged(gold, [0] * 200 + [1] * 100), judged(gold, [0] * 240 + [1] * 60)
    (more,) = paired_bootstrap(scorers(first, ["accuracy"]), scorers(second, ["accuracy"]), 300, draws=999).values()
    assert more.difference == pytest.approx(40 / 300) and 0 < more.low < more.difference < more.high
    assert more.p == pytest.approx(2 / 1000)
    (less,) = paired_bootstrap(scorers(second, ["accuracy"]), scorers(first, ["accuracy"]), 300, draws=999).values()
    assert less.difference == -more.difference and less.high < 0


def two(both, first, second, neither):
    pairs = [(True, True)] * both + [(True, False)] * first + [(False, True)] * second + [(False, False)] * neither
    return map(np.array, zip(*pairs, strict=True))


@pytest.mark.parametrize(
    ("only", "p"),
    [((1, 0), 1.0), ((0, 5), 2 / 32), ((5, 5), 1.0), ((2, 8), 2 * (1 + 10 + 45) / 1024), ((8, 2), 2 * (1 + 10 + 45) / 1024)],
)
def test_mcnemar_by_hand(only, p):
    found = mcnemar(*two(7, *only, 3))
    assert (found.only_first, found.only_second) == only and found.p == pytest.approx(p)


def test_mcnemar_of_two_that_never_differ():
    assert tuple(mcnemar(*two(5, 0, 0, 2))) == (0, 0, 1.0)


def test_mcnemar_as_scipy_has_it():
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed")
    for first, second in ((40, 61), (300, 150), (3000, 3001), (30, 3000)):
        expected = stats.binomtest(first, first + second).pvalue
        assert mcnemar(*two(1, first, second, 1)).p == pytest.approx(expected, rel=1e-6)
