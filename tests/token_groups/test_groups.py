"""Token groups: corpora whose answer is known, counts against a plain count, and what is refused."""

import json
import math
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clm_kernels.token_groups import MEASURES, TokenGroups, token_groups
from clm_kernels.token_groups.association import log_odds
from clm_kernels.token_groups.counting import Counts, count, runs_of
from clm_kernels.token_groups.sieve import Sieve
from clm_kernels.token_groups.tokenised import TokenisedTexts


def corpus(seed=0):
    """100 texts: only those of "fees" hold "charged twice", only those of "bug" "crashed"; "my card" is everywhere."""
    draw = random.Random(seed)
    texts = []
    for i in range(100):
        filler = draw.choices(["please", "it", "the", "app", "again"], k=3)
        if i % 2:
            texts.append((" ".join(["my card was charged twice", *filler]), "fees"))
        else:
            texts.append((" ".join(["my card", *filler, "crashed"]), "bug"))
    return texts


@pytest.mark.parametrize("measure", MEASURES)
def test_the_best_group_is_the_one_that_decides(tokenizer, measure):
    groups = token_groups(corpus(), tokenizer, measure=measure, top=5)
    assert groups.by_class["bug"][0].text == "crashed"
    best = groups.by_class["fees"][0]
    assert best.text in ("card was charged twice", "my card was charged") and best.count == best.total == 50
    assert best.pieces == tuple(best.text.split())
    for found in groups.by_class.values():
        assert all(group.score > 0 for group in found)
        assert [group.score for group in found] == sorted((group.score for group in found), reverse=True)
        assert "my card" not in [group.text for group in found]


def test_a_shorter_run_that_never_stands_alone_is_absorbed(tokenizer):
    texts = [("charged twice please", "fees"), ("charged twice", "fees"), ("the app", "bug"), ("app again", "bug")] * 5
    found = {group.text for group in token_groups(texts, tokenizer, longest=2)}
    assert "charged twice" in found and not found & {"charged", "twice"}
    texts += [("twice again", "bug")]
    found = {group.text for group in token_groups(texts, tokenizer, longest=2, minimum=1)}
    assert "charged twice" in found and "charged" not in found


@pytest.mark.parametrize("measure", MEASURES)
def test_the_order_of_texts_changes_nothing(tokenizer, measure):
    texts = corpus()
    expected = token_groups(texts, tokenizer, measure=measure)
    for seed in range(3):
        random.Random(seed).shuffle(texts)
        assert token_groups(texts, tokenizer, measure=measure) == expected


def test_runs_are_whole_words_of_at_most_four_pieces(tokenizer):
    encoding = tokenizer("top refunds twice", add_special_tokens=False).encodings[0]
    assert encoding.tokens == ["top", "refund", "##s", "twice"]
    runs = {
        tuple(tokenizer.convert_ids_to_tokens(list(run))): list(words)
        for run, words in runs_of(encoding.ids, encoding.word_ids, 4)
    }
    assert runs == {
        ("top",): [0], ("top", "refund", "##s"): [0, 1], ("top", "refund", "##s", "twice"): [0, 1, 2],
        ("refund", "##s"): [1], ("refund", "##s", "twice"): [1, 2], ("twice",): [2],
    }  # fmt: skip
    assert all(len(run) <= 2 for run, _ in runs_of(encoding.ids, encoding.word_ids, 2))
    assert len(list(runs_of([5, 1, 6], [None, 0, None], 4))) == 1  # special tokens are in no word


def test_counts_are_texts_however_often_a_text_says_it(tokenizer):
    texts = [("charged charged charged", "fees")] * 3 + [("card charged", "bug")] + [("card", "bug")] * 4
    (group,) = [g for g in token_groups(texts, tokenizer, minimum=1) if g.text == "charged"]
    assert (group.label, group.count, group.total) == ("fees", 3, 4)


def test_words_with_tags_count_by_the_tag_of_the_words(tokenizer):
    examples = [(["refund", "the", "card"], ["B-ACT", "O", "B-THING"]), (["refund", "my", "app"], ["B-ACT", "O", "B-THING"])] * 4
    groups = token_groups(examples, tokenizer, longest=2)
    assert set(groups.by_class) == {"ACT", "THING"} and groups.sizes == {"ACT": 8, "O": 8, "THING": 8}
    assert groups.by_class["ACT"][0].text == "refund" and groups.by_class["ACT"][0].count == 8
    assert {group.text for group in groups.by_class["THING"]} >= {"the card", "my app"}


def test_log_odds_equal_the_formula():
    counts, sizes = np.array([[7, 1], [2, 2]]), np.array([10, 30])
    rate = 8 / 40
    having, lacking = 7 + 10 * rate, 3 + 10 * (1 - rate)
    odds = math.log(having / lacking) - math.log(8 / 32)
    assert log_odds(counts, sizes)[0, 0] == pytest.approx(odds / math.sqrt(1 / having + 1 / lacking + 1 / 8 + 1 / 32))
    assert log_odds(counts, sizes)[1, 0] > 0 > log_odds(counts, sizes)[1, 1]


def test_chi_squared_and_information_equal_their_definitions():
    counts, sizes = np.array([[7, 1, 3]]), np.array([10, 30, 15])
    for i in range(3):
        inside, total, everything = counts[0, i], counts.sum(), sizes.sum()
        table = np.array([[inside, total - inside], [sizes[i] - inside, everything - sizes[i] - total + inside]])
        expected = table.sum(1, keepdims=True) * table.sum(0) / everything
        sign = np.sign(table[0, 0] - expected[0, 0])
        assert MEASURES["chi-squared"](counts, sizes)[0, i] == pytest.approx(sign * ((table - expected) ** 2 / expected).sum())
        bits = (table / everything * np.log2(table / expected)).sum()
        assert MEASURES["mutual-information"](counts, sizes)[0, i] == pytest.approx(sign * bits)


@pytest.mark.parametrize("measure", MEASURES)
def test_measures_are_finite_at_the_ends(measure):
    counts, sizes = np.array([[5, 5], [5, 0], [0, 5], [1, 0]]), np.array([5, 5])
    scores = MEASURES[measure](counts, sizes)
    assert np.isfinite(scores).all()
    assert scores[0] == pytest.approx(0, abs=1e-6) and scores[1, 0] > scores[3, 0] > 0 > scores[1, 1]


@given(
    st.lists(st.tuples(st.lists(st.integers(0, 4), min_size=1, max_size=5), st.sampled_from("ab")), max_size=60),
    st.integers(1, 12),
)
def test_memory_is_bounded_and_counts_are_too_small_by_no_more_than_it_says(texts, capacity):
    exact, bounded = Counter(), Counts(capacity)
    for ids, label in texts:
        exact.update({(i,) for i in ids})
        bounded.add_text([(i,) for i in ids], label)
        assert len(bounded.occurrences) <= capacity and bounded.by_class.keys() == bounded.occurrences.keys()
    for run, true in exact.items():
        seen = sum(bounded.by_class.get(run, {}).values())
        assert true - bounded.missed <= seen <= true


def exactly(texts, longest=4):
    """Texts with each run, by a plain count."""
    counts = Counter()
    for text, _ in texts:
        ids = text.split()
        counts.update({tuple(ids[i:j]) for i in range(len(ids)) for j in range(i + 1, min(i + longest, len(ids)) + 1)})
    return counts


@pytest.mark.parametrize("capacity", [12, 60, 500_000])
def test_counts_are_exact_and_only_what_is_rare_can_be_lacking(tokenizer, capacity):
    draw, words = random.Random(0), ["my", "card", "app", "please", "the", "it", "again", "refund"]
    texts = [(" ".join(draw.choices(words, range(8, 0, -1), k=5)), draw.choice("ab")) for _ in range(300)]
    exact = exactly(texts)
    texts = TokenisedTexts(texts, tokenizer)
    counts = count(texts, 4, 3, capacity)
    found = {tuple(tokenizer.convert_ids_to_tokens(list(run))): sum(own.values()) for run, own in counts.by_class.items()}
    assert len(found) <= capacity and (counts.missed > 0) == (capacity < 100)
    assert all(number == exact[run] for run, number in found.items())
    assert {run for run, number in exact.items() if number > max(2, counts.missed)} <= found.keys()


def test_most_rare_runs_are_held_back_and_no_frequent_one():
    sieve, draw = Sieve(5, 20_000), random.Random(0)
    frequent = [(i, i + 1) for i in range(500)]
    rare = [(i, draw.randrange(10**6), 7) for i in range(17_500)]
    for run in [*frequent * 5, *rare]:
        sieve.add(run)
    assert all(run in sieve for run in frequent) and sum(run in sieve for run in rare) < 0.05 * len(rare)
    sieve = Sieve(1000, 100)  # of more than a byte holds
    for _ in range(1000):
        sieve.add((1,))
    assert (1,) in sieve and (2,) not in sieve
    sieve.add((2,), times=1000)
    assert (2,) in sieve


def test_texts_are_read_again_as_they_were_tokenised(tokenizer, monkeypatch):
    monkeypatch.setattr("clm_kernels.token_groups.tokenised.BATCH", 2)
    texts = TokenisedTexts([("my refunds", "a"), ("", "b"), ("card", "b"), ("app it", "a"), ("", "c"), (" ", "c")], tokenizer)
    assert (texts.empty, texts.tokens) == (3, 6)
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("my refunds", "card", "app it")]
    expected = list(zip(ids, [[0, 1, 1], [0], [0, 1]], [["a"], ["b"], ["a"]]))
    assert list(texts) == expected == list(texts)
    (tagged,) = TokenisedTexts([(["refunds", "my"], ["X", "O"])], tokenizer)
    assert tagged.word_ids == [0, 0, 1] and tagged.labels == ["X", "O"]


def test_positions_are_those_of_any_group(tokenizer):
    groups = token_groups(corpus(), tokenizer, top=1)
    ids = tokenizer("again my card was charged twice crashed", add_special_tokens=False)["input_ids"]
    inside = groups.positions(ids)
    best = groups.by_class["fees"][0].text.split()
    words = ["again", "my", "card", "was", "charged", "twice", "crashed"]
    assert inside == [word in best or word == "crashed" for word in words]


def test_saved_groups_are_the_same_again(tokenizer, tmp_path):
    groups = token_groups(corpus(), tokenizer)
    groups.save(tmp_path / "groups.json")
    again = TokenGroups.load(tmp_path / "groups.json")
    assert again == groups and again.positions([4, 5]) == groups.positions([4, 5])
    for content in ("[]", "{}", '{"by_class": {"a": [{}]}}', "no JSON"):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(ValueError, match=r"bad.json' must be token groups as `save` writes them"):
            TokenGroups.load(tmp_path / "bad.json")
    assert json.loads((tmp_path / "groups.json").read_text())["measure"] == "log-odds"


def test_a_class_of_one_text_and_texts_of_nothing(tokenizer):
    groups = token_groups(
        [("card card", "lonely"), ("", "fees"), *[("refund", "fees"), ("app", "bug")] * 5], tokenizer, minimum=1
    )
    assert groups.by_class["lonely"] == [] and groups.empty == 1 and groups.sizes["fees"] == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"measure": "tf-idf"}, "measure must be one of log-odds, chi-squared, mutual-information, got 'tf-idf'"),
        ({"minimum": 0}, "minimum must be at least 1, got 0"),
        ({"longest": 0}, "longest must be at least 1, got 0"),
        ({"top": 0}, "top must be at least 1, got 0"),
    ],
)
def test_bad_arguments(tokenizer, options, message):
    with pytest.raises(ValueError, match=f"token_groups: {message}"):
        token_groups(corpus(), tokenizer, **options)


def test_bad_texts_and_tokenizers(tokenizer):
    with pytest.raises(ValueError, match="examples must be at least one text with words in it, got 2 without"):
        token_groups([("", "a"), (" ", "b")], tokenizer)
    with pytest.raises(ValueError, match="tokenizer must be a fast one, with pieces of words, got object"):
        token_groups(corpus(), object())
