"""Merged tokens: which groups, where they match, what stays as it was, and what is refused."""

import json

import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st
from tiny_tokenizers import MAKE, TEXTS, WORDS, group, groups_of
from tokenizers import AddedToken

from clm_kernels.extension import NewToken
from clm_kernels.token_groups import merging
from clm_kernels.token_groups.merging import add_tokens, merge_groups
from clm_kernels.token_groups.saving import check_reload, tokens_per_text

PLAIN = [text for text, _ in TEXTS]
PHRASES = ["direct debit", "charged twice", "my parcel", "parcels"]
MADE = {kind: make() for kind, make in MAKE.items()}


def ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def merge_phrases(tokenizer):
    groups = [group(tokenizer, f" {text}", score=-i, before="please") for i, text in enumerate(PHRASES)]
    return merge_groups(tokenizer, groups, PLAIN)


MERGED = {kind: merge_phrases(tokenizer) for kind, tokenizer in MADE.items()}
kinds = pytest.mark.parametrize("kind", MAKE)


@kinds
def test_the_phrases_are_merged_in_order(kind):
    merged, size = MERGED[kind], len(MADE[kind])
    expected = PHRASES if kind != "bpe" else PHRASES[:3]  # which has a piece for "parcels"
    assert [token.text for token in merged.tokens] == expected and not merged.left_out
    assert [token.id for token in merged.tokens] == list(range(size, size + len(expected)))
    assert len(merged.tokenizer) == size + len(expected) and len(merged.base) == size
    for token in merged.tokens:
        assert "".join(merged.base.convert_ids_to_tokens(token.pieces)).translate(
            {ord(c): None for c in "#▁Ġ"}
        ) == token.text.replace(" ", "")


@kinds
def test_where_they_match(kind):
    merged = MERGED[kind]
    token = merged.tokens[0]
    mid = "see my direct debit now"
    assert merged.expand(ids(merged.tokenizer, mid)) == ids(merged.base, mid)
    assert len(ids(merged.tokenizer, mid)) == len(ids(merged.base, mid)) - len(token.pieces) + 1
    for text in (mid, "direct debit", "direct debit now", "see direct debit", "a direct debit, now", "(direct debit)?"):
        assert ids(merged.tokenizer, text).count(token.id) == 1, text
    for text in ("direct debits", "indirect debit", "direct debit2", "a direct_debit", "directdebit", "direct, debit"):
        assert ids(merged.tokenizer, text) == ids(merged.base, text), text
    assert ids(merged.tokenizer, "see direct debit direct debit")[-2:] == [token.id] * 2
    upper = "see my DIRECT Debit now"
    assert (token.id in ids(merged.tokenizer, upper)) == (kind == "wordpiece")
    if kind != "wordpiece":
        assert ids(merged.tokenizer, upper) == ids(merged.base, upper)


words = st.sampled_from([*WORDS, *PHRASES, "direct debits", "zq", "Twice", "é", ",", "?", "(", "charged  twice"])


@kinds
@given(text=st.one_of(st.text(max_size=30), st.lists(words, max_size=12).map(" ".join)))
def test_texts_without_a_group_are_as_before(kind, text):
    merged = MERGED[kind]
    found, before = ids(merged.tokenizer, text), ids(merged.base, text)
    if not {token.id for token in merged.tokens} & set(found):
        assert found == before
        assert merged.tokenizer.decode(found) == merged.base.decode(before)
    if kind == "wordpiece":  # whose pieces do not depend on what stands around a word
        assert merged.expand(found) == before


@kinds
@given(st.lists(st.sampled_from([*WORDS, *PHRASES, "zq"]), max_size=12))
def test_among_words_pieces_in_place_of_tokens_are_the_former_ids(kind, words):
    merged, text = MERGED[kind], " ".join(["please", *words])
    assert merged.expand(ids(merged.tokenizer, text)) == ids(merged.base, text)


@kinds
def test_groups_of_a_corpus(kind):
    tokenizer = MADE[kind]
    before = [ids(tokenizer, text) for text in PLAIN]
    groups = groups_of(tokenizer)
    merged = merge_groups(tokenizer, groups, PLAIN, top=4)
    assert len(merged.tokens) == 4 and [ids(tokenizer, text) for text in PLAIN] == before
    scores = {g.ids: g.score for g in groups if len(g.ids) > 1}
    assert [scores[token.pieces] for token in merged.tokens] == sorted(scores.values(), reverse=True)[2 * (kind != "unigram") :][
        :4
    ]
    report = merged.report({"train": PLAIN, "few": PLAIN[:3]})
    assert report["tokens"] == [token.text for token in merged.tokens] and report["left_out"] == merged.left_out
    for split, texts in (("train", PLAIN), ("few", PLAIN[:3])):
        lengths = report["tokens_per_text"][split]
        assert lengths["before"] == sum(len(ids(tokenizer, text)) for text in texts) / len(texts)
        assert lengths["after"] == sum(len(ids(merged.tokenizer, text)) for text in texts) / len(texts) < lengths["before"]


def test_by_what_groups_are_ranked():
    tokenizer = MADE["wordpiece"]
    groups = [group(tokenizer, "my parcel", score=2, total=3), group(tokenizer, "my direct debit", score=1, total=2)]
    best = {by: merge_groups(tokenizer, groups, PLAIN, top=1, by=by).tokens[0].text for by in ("score", "saving")}
    assert best == {"score": "my parcel", "saving": "my direct debit"}


def test_groups_stand_as_they_are_written():
    """The tokenizer would write "twice , my": a text that never matches."""
    tokenizer = MADE["wordpiece"]
    for often, seldom in (("twice, my", "twice,my"), ("twice,my", "twice, my")):
        merged = merge_groups(tokenizer, [group(tokenizer, "twice , my")], [seldom, f"see {often}", f"{often} debit"])
        assert merged.tokens[0].text == often
        assert merged.tokens[0].id in ids(merged.tokenizer, f"see {often.title()} debit")
        assert ids(merged.tokenizer, seldom) == ids(tokenizer, seldom)


@pytest.mark.parametrize(
    ("kind", "text", "why"),
    [
        ("wordpiece", ", it was", "it begins with punctuation"),
        ("wordpiece", "lost debit", "it does not occur in the texts"),
        ("unigram", "is lost", "it does not occur in the texts"),
    ],
)
def test_groups_that_are_left_out(kind, text, why):
    tokenizer = MADE[kind]
    groups = [group(tokenizer, f" {text}", score=2, before="please"), group(tokenizer, " charged twice", before="please")]
    merged = merge_groups(tokenizer, groups, PLAIN, top=1)
    assert [token.text for token in merged.tokens] == ["charged twice"]  # the next best one
    assert list(merged.left_out) == [text] and merged.left_out[text].startswith(why)
    with pytest.raises(
        ValueError, match=rf"groups must be at least one that can be merged, got 1 that cannot be \('{text}': {why}"
    ):
        merge_groups(tokenizer, groups[:1], PLAIN)


def test_a_group_that_is_a_token_already():
    """A piece for the inside of words, which is two pieces where a word begins."""
    tokenizer = MADE["bpe"]
    groups = [group(tokenizer, " arged", score=2, before="please"), group(tokenizer, " charged twice", before="please")]
    assert len(groups[0].ids) == 2 and "arged" in tokenizer.get_vocab()
    merged = merge_groups(tokenizer, groups, [*PLAIN, "see arged now"])
    assert [token.text for token in merged.tokens] == ["charged twice"]
    assert merged.left_out == {"arged": "it is a token already"}


def test_the_same_words_with_other_pieces_are_one_token():
    tokenizer = MADE["bpe"]
    groups = [group(tokenizer, "charged twice", score=2), group(tokenizer, " charged twice", before="please")]
    assert groups[0].ids != groups[1].ids
    merged = merge_groups(tokenizer, groups, [*PLAIN, "charged twice"])
    other = merge_groups(
        tokenizer, [group(tokenizer, " charged twice", score=3, before="please"), groups[0]], [*PLAIN, "charged twice"]
    )
    for found in (merged, other):
        assert [(token.text, token.pieces) for token in found.tokens] == [("charged twice", groups[1].ids)] and not found.left_out
    assert merged.expand(ids(merged.tokenizer, "i was charged twice")) == ids(tokenizer, "i was charged twice")
    with pytest.raises(ValueError, match="'charged twice': it has other pieces among words"):
        merge_groups(tokenizer, groups[:1], [*PLAIN, "charged twice"])


@pytest.mark.parametrize(
    ("kind", "wrong", "why"),
    [
        ("wordpiece", {"single_word": False}, "is matched in 'zqcharged twice', inside of a word"),
        ("bpe", {"lstrip": False}, "is not matched in 'zq charged twice zq'"),
        ("unigram", {"lstrip": False}, "is not matched in 'zq charged twice zq'"),
        ("wordpiece", {"normalized": False}, "is not matched in 'zq CHARGED TWICE zq'"),
    ],
)
def test_settings_that_do_not_work_are_found_out(kind, wrong, why, monkeypatch):
    def add(tokenizer, lstrip):
        settings = {"single_word": True, "normalized": True, "lstrip": kind != "wordpiece"} | wrong
        tokenizer.add_tokens([AddedToken(text, **settings) for text in lstrip])

    monkeypatch.setattr(merging, "_add", add)
    tokenizer = MADE[kind]
    with pytest.raises(ValueError, match=f"'charged twice': it {why}"):
        merge_groups(tokenizer, [group(tokenizer, " charged twice", before="please")], PLAIN)


def test_the_next_best_take_the_places_of_those_that_do_not_match(monkeypatch):
    real = merging._fault
    monkeypatch.setattr(merging, "_fault", lambda merged, token: "no" if "parcel" in token.text else real(merged, token))
    tokenizer = MADE["wordpiece"]
    texts = ["my parcel", "direct debit", "charged twice", "it was"]
    groups = [group(tokenizer, text, score=-i) for i, text in enumerate(texts)]
    merged = merge_groups(tokenizer, groups, PLAIN, top=2)
    assert [token.text for token in merged.tokens] == ["direct debit", "charged twice"]
    assert merged.left_out == {"my parcel": "no"}


# On disk, and on another tokenizer


@kinds
def test_saved_tokenizers_are_the_same_again(kind):
    check_reload(MERGED[kind].tokenizer, [*PLAIN, "Direct debit, charged twice?", ""])


@kinds
def test_a_saved_tokenizer_that_is_another_one(kind, monkeypatch):
    merged = merge_phrases(MAKE[kind]())
    monkeypatch.setattr(merged.tokenizer, "save_pretrained", merged.base.save_pretrained)
    text = PLAIN[0]
    with pytest.raises(
        ValueError, match=rf"check_reload: the saved tokenizer must make \[[0-9, ]+\] of '{text}' as before it was"
    ):
        check_reload(merged.tokenizer, ["see", *PLAIN])
    check_reload(merged.tokenizer, ["see"])


@kinds
def test_tokens_for_another_copy(kind):
    merged, other = MERGED[kind], MAKE[kind]()
    for _ in range(2):
        add_tokens(other, merged.tokens)
        assert [ids(other, text) for text in PLAIN] == [ids(merged.tokenizer, text) for text in PLAIN]
        assert len(other) == len(merged.tokenizer)


def test_tokens_for_another_tokenizer():
    other = MAKE["wordpiece"]()
    other.add_tokens(["another"])
    size = len(MADE["wordpiece"])
    with pytest.raises(ValueError, match=rf"tokenizer must be the base's, where 'direct debit' gets id {size}, got {size + 1}"):
        add_tokens(other, MERGED["wordpiece"].tokens)


def test_bad_arguments():
    tokenizer = MADE["wordpiece"]
    groups = [group(tokenizer, "charged twice")]
    with pytest.raises(ValueError, match="merge_groups: tokenizer must be a fast one, got object"):
        merge_groups(object(), groups, PLAIN)
    with pytest.raises(ValueError, match="merge_groups: by must be one of score, saving, got 'luck'"):
        merge_groups(tokenizer, groups, PLAIN, by="luck")
    with pytest.raises(ValueError, match="merge_groups: top must be at least 1, got 0"):
        merge_groups(tokenizer, groups, PLAIN, top=0)
    with pytest.raises(ValueError, match="at least one that can be merged, got none of more than one piece"):
        merge_groups(tokenizer, [group(tokenizer, "charged")], PLAIN)
    with pytest.raises(ValueError, match="tokens_per_text: texts must be at least one text, got none"):
        tokens_per_text(tokenizer, [])


def test_pieces_in_place_of_tokens():
    merged = merging.MergedTokenizer(None, None, (NewToken("a b", 9, (1, 2), False), NewToken("c d e", 10, (3, 4, 5), False)), {})
    assert merged.expand([7, 9, 9, 10, 0]) == [7, 1, 2, 1, 2, 3, 4, 5, 0]


@pytest.mark.parametrize(
    "name", ["RobertaTokenizer", "Qwen2Tokenizer", "XLMRobertaTokenizer", "AlbertTokenizer", "BertTokenizer"]
)
def test_transformers_own_classes(name):
    """Which build their tokenizer anew when they are loaded."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]", "<|endoftext|>"]
    kind = {"BertTokenizer": "wordpiece", "XLMRobertaTokenizer": "unigram", "AlbertTokenizer": "unigram"}.get(name, "bpe")
    model = json.loads(MADE[kind].backend_tokenizer.to_str())["model"]
    if kind == "unigram":
        vocabulary = [*((piece, 0.0) for piece in special), *(tuple(piece) for piece in model["vocab"][2:])]
    else:
        vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys([*special, *model["vocab"]]))}
    merges = {"merges": [tuple(merge) for merge in model["merges"]]} if kind == "bpe" else {}
    tokenizer = getattr(transformers, name)(vocab=vocabulary, **merges)
    merged = merge_groups(tokenizer, groups_of(tokenizer), PLAIN, top=6)
    assert len(merged.tokens) == 6
    check_reload(merged.tokenizer, [*PLAIN, "(My parcel was lost), see direct debit, it"])
    lengths = merged.report({"train": PLAIN})["tokens_per_text"]["train"]
    assert lengths["after"] < 0.8 * lengths["before"]
