"""Which text stands in which row, what sees what there, and how tokens come and go."""

import math
import random

import pytest
import torch

from clm_kernels.models.packed_rows import Price, Rows, arranged, dealt

PRICE = Price(token=6 * 32.0, pair=1.0)
CPU = torch.device("cpu")


def lengths_of(seed):
    draw = random.Random(seed)
    return [draw.randrange(0, 30) for _ in range(draw.randrange(1, 40))]


@pytest.mark.parametrize("seed", range(40))
def test_every_text_with_tokens_stands_once(seed):
    lengths = lengths_of(seed)
    for count in (1, 2, 5):
        rows = dealt(lengths, count)
        assert sorted(i for row in rows for i in row) == [i for i, length in enumerate(lengths) if length]
        assert len(rows) == count


@pytest.mark.parametrize("seed", range(40))
def test_what_is_arranged_costs_less(seed):
    lengths = lengths_of(seed)
    width = max(lengths)
    rows = arranged(lengths, width, PRICE)
    padded = PRICE.of(len(lengths), width)
    if rows is not None:
        assert PRICE.of(len(rows), max(sum(lengths[i] for i in row) for row in rows)) < padded
    elif width:
        total = sum(lengths)
        for count in {math.ceil(total / (times * width)) for times in range(1, 9)}:
            assert PRICE.of(count, max(sum(lengths[i] for i in row) for row in dealt(lengths, count))) >= padded


def test_little_padding_is_left():
    lengths = lengths_of(1) * 2
    rows = arranged(lengths, 30, PRICE)
    places = len(rows) * max(sum(lengths[i] for i in row) for row in rows)
    assert sum(lengths) / (len(lengths) * 30) < 0.6 < 0.97 < sum(lengths) / places


def test_dear_attention_keeps_rows_short():
    """Where pairs of tokens cost most, a row of twice the length costs twice as much for as many tokens."""
    lengths = [10, 10, 5, 5, 5, 5]
    for price, longest in ((Price(1.0, 0.0), 40), (Price(0.0, 1.0), 10)):
        rows = arranged(lengths, 10, price)
        assert max(sum(lengths[i] for i in row) for row in rows) <= longest
    assert len(arranged(lengths, 10, Price(0.0, 1.0))) == 4


@pytest.mark.parametrize(("lengths", "width"), [([], 3), ([0, 0], 3), ([5], 5), ([7, 7, 7], 7), ([7, 7, 7, 6], 7)])
def test_nothing_to_save(lengths, width):
    assert arranged(lengths, width, PRICE) is None


def test_a_batch_that_is_padded_beyond_its_longest_text_is_cut():
    assert arranged([5, 5], 8, PRICE) is not None


@pytest.mark.parametrize("seed", range(20))
def test_there_and_back(seed):
    lengths = [*lengths_of(seed), 3]
    width, count = max(lengths) + 2, 3
    rows = Rows(lengths, width, dealt(lengths, count), CPU)
    real = torch.arange(width) < torch.tensor(lengths)[:, None]
    ids = torch.arange(1, len(lengths) * width + 1).view(len(lengths), width)
    packed = rows.pack(ids, -7)
    assert packed.shape == rows.shape == rows.text.shape
    assert torch.equal(packed == -7, rows.text == -1)
    assert sorted(packed[packed > 0].tolist()) == ids[real].tolist()
    assert torch.equal((packed - 1)[packed > 0] // width, rows.text[packed > 0])  # each token under its own text's number
    for row, texts in zip(packed, dealt(lengths, count)):
        found = row[row > 0].tolist()
        assert found == [token for i in texts for token in ids[i, : lengths[i]].tolist()] == row[: len(found)].tolist()
    back = rows.unpack(packed[..., None].expand(-1, -1, 2))
    assert torch.equal(back[..., 0], ids * real) and torch.equal(back[..., 1], ids * real)


@pytest.mark.parametrize("causal", [False, True])
def test_who_sees_whom(causal):
    lengths = [3, 0, 2, 4, 1]
    rows = Rows(lengths, 4, dealt(lengths, 2), CPU)
    mask = rows.mask(causal)
    assert mask.shape == (2, 1, 5, 5)
    for r in range(2):
        for query in range(5):
            for key in range(5):
                same = rows.text[r, query] == rows.text[r, key]
                assert mask[r, 0, query, key] == (same and (key <= query or not causal))
    assert mask.any(-1).all()  # padding too sees something, so that no softmax is of nothing
