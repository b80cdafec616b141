"""Compact columns read as the lists that they stand for."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from clm_kernels.finetune.columns import Lists, Names, Picked, Places, Texts, column_for
from clm_kernels.finetune.split import Split

ANY = st.text(max_size=8)
LONE = "a\ud800é"  # a surrogate without its other half, which JSON can hold


def filled(column, values):
    for value in values:
        column.append(value)
    return column


def assert_reads_as(column, values):
    assert column == values and list(column) == values and len(column) == len(values)
    assert [column[i] for i in range(-len(values), len(values))] == values * 2
    assert column[1:-1] == values[1:-1] and column[::-2] == values[::-2] and column[5:] == values[5:]
    assert column != [*values, "one more"] and (not values or column != [*values[:-1], "another"])
    with pytest.raises(IndexError):
        column[len(values)]


@given(st.lists(ANY, max_size=12))
@example(["é", LONE, ""])
def test_texts_and_names(values):
    assert_reads_as(filled(Texts(), values), values)
    assert_reads_as(filled(Names(), values), values)
    assert_reads_as(filled(Names(), [None] * 3), [None] * 3)


@given(st.lists(st.lists(ANY, max_size=4), max_size=8))
def test_lists(values):
    assert_reads_as(filled(Lists(Texts()), values), values)
    assert_reads_as(filled(Lists(Names()), values), values)


def test_places():
    assert_reads_as(filled(Places(), ["row 2", "row 3", "row 12"]), ["row 2", "row 3", "row 12"])


@given(st.lists(ANY, min_size=1, max_size=12), st.data())
def test_picked(values, data):
    chosen = data.draw(st.lists(st.integers(0, len(values) - 1)))
    assert_reads_as(Picked(filled(Texts(), values), np.array(chosen, dtype=np.int64)), [values[i] for i in chosen])


def test_names_stand_once():
    column = filled(Names(), ["".join(["bill", "ing"]) for _ in range(3)])
    assert column[0] is column[2]


@pytest.mark.parametrize(
    ("value", "few", "kind"),
    [("a", False, Texts), ("a", True, Names), (None, True, Names), (["a"], False, Lists), (["a"], True, Lists), (3, False, list)],
)
def test_the_column_for_a_value(value, few, kind):
    assert type(column_for(value, few)) is kind


def test_parts_of_parts():
    split = Split.of("file", [(f"line {i}", f"text {i}", "ab"[i % 2]) for i in range(1, 9)])
    part = split.part([7, 0, 3, 2]).part(np.array([3, 0]))
    assert (part.texts, part.labels, part.where) == (["text 3", "text 8"], ["b", "a"], ["line 3", "line 8"])
