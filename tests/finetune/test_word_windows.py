"""Windows of words: what they hold, which word counts in which, and that tags come out of them in their order."""

from itertools import pairwise

import needs_datasets  # noqa: F401
import numpy as np
import pytest
from tiny_task import byte_tokenizer, tokenizer

from clm_kernels.finetune.encode import IGNORED
from clm_kernels.finetune.split import Split
from clm_kernels.finetune.tasks import TASKS
from clm_kernels.finetune.word_windows import spans_of

TASK = TASKS["token"]
WORDS = ["anna", "livesing", "in", "rome", "bob", "meetss", "smith"] * 4  # "livesing" and "meetss" have two pieces
TAGS = [f"B-{i}" for i in range(len(WORDS))]


def split(*texts, tags=None):
    return Split("", list(texts), tags or [None] * len(texts), range(len(texts)))


@pytest.mark.parametrize("seed", range(40))
def test_spans_hold_every_word_fit_and_overlap_by_a_quarter_at_most(seed):
    draw = np.random.default_rng(seed)
    room = int(draw.integers(4, 20))
    sizes = np.minimum(draw.integers(0, 6, draw.integers(1, 80)), room)
    spans = spans_of(sizes, room)
    assert spans[0][0] == 0 and spans[-1][1] == len(sizes)
    assert all(sizes[begin:end].sum() <= room for begin, end in spans)
    for (begin, end), (later, further) in pairwise(spans):
        assert begin < later <= end < further
        if (later, further) != spans[-1]:  # as much of a quarter as leaves room for the next word
            most = min(room // 4, room - sizes[end])
            assert sizes[later:end].sum() <= most and (later == begin + 1 or sizes[later - 1 : end].sum() > most)
    assert len(spans) == 1 or sizes[spans[-1][0] - 1 :].sum() > room  # the last one is full


def test_a_word_counts_where_it_stands_farther_from_an_end():
    found = TASK.windows(split(WORDS, ["anna"]), tokenizer(), 12)
    assert found.told() == {"texts": 1, "windows": len(found.counts) and int(found.counts[0])} and found.counts[1] == 1
    begins = np.cumsum([0, *map(len, found.rows.texts)])  # of windows, if they did not overlap
    assert begins[int(found.counts[0])] > len(WORDS)
    spans = spans_of(np.array([len(tokenizer()(word, add_special_tokens=False)["input_ids"]) for word in WORDS]), 10)
    owner = {}
    for i, ((begin, end), (first, last)) in enumerate(zip(spans, found.owned)):
        assert list(found.rows.texts[i]) == WORDS[begin:end]
        for word in range(begin + first, begin + last):
            assert word not in owner
            owner[word] = i
    assert sorted(owner) == list(range(len(WORDS)))
    far = len(WORDS)
    for word, i in owner.items():
        room = {  # by window: words to its nearer end that is no end of the text
            window: min(word - begin if window else far, end - 1 - word if end < len(WORDS) else far)
            for window, (begin, end) in enumerate(spans)
            if begin <= word < end
        }
        assert room[i] == max(room.values())


@pytest.mark.parametrize("made", [tokenizer, byte_tokenizer])
def test_rows_are_put_together_by_word(made):
    read = made()
    TASK.prepare_tokenizer(read)
    words = [word.title() for word in WORDS] if made is byte_tokenizer else WORDS
    encoded = TASK.encode(split(["bob"], words, tags=[["B-3"], TAGS]), sorted(TAGS), read, 12, True, long="window")
    assert list(encoded.split.where) == [1, 0] and encoded.cut == 0 and encoded.weights is None
    labels = [label for row in encoded.dataset["labels"] for label in row if label != IGNORED]
    assert [sorted(TAGS)[label] for label in labels] == [*TAGS, "B-3"]  # each once, in their order
    rows = [np.array([[label] for label in row]) for row in encoded.dataset["labels"]]
    pooled = list(encoded.pooled(rows))
    assert [row[:, 0].tolist() for row in pooled] == [labels[:-1], labels[-1:]]
    assert list(encoded.first_tokens) == [{i: i for i in range(len(WORDS))}, {0: 0}]


def test_a_word_without_a_token_is_cut_off_and_keeps_its_place():
    words = [*WORDS[:9], " ", *WORDS[9:]]
    told = split(words, tags=[[*TAGS[:9], "B-0", *TAGS[9:]]])
    encoded = TASK.encode(told, sorted(TAGS), tokenizer(), 12, False, long="window")
    assert encoded.cut == 1
    assert list(encoded.first_tokens[0]) == [word for word in range(len(words)) if word != 9]
    assert list(encoded.first_tokens[0].values()) == list(range(len(words) - 1))
