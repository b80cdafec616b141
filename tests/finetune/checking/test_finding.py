"""How findings name labels, and count one."""

import pytest

from clm_kernels.finetune.checking.finding import Finding, named

LONG = "a very long label of a customer about things and "


def test_long_labels_are_cut_where_they_differ():
    assert named(["x" * 50]) == repr("x" * 40 + "…")
    assert named([LONG + "card", LONG + "Card"]) == "'…er about things and card', '…er about things and Card'"
    assert named(["x" * 60, "x" * 60 + " "]) == f"{'…' + 'x' * 20!r}, {'…' + 'x' * 20 + ' '!r}"
    twice = ["b" * 50 + "x" * 50, "b" * 50 + "y" * 50, "b" * 50 + "x" * 49 + "z"]
    assert named(twice) == ", ".join(map(repr, twice))


@pytest.mark.parametrize(("count", "said"), [(1, "rows has a text that has no label"), (2, "rows have a text that has no label")])
def test_one_has_a_verb_for_one(count, said):
    assert Finding("a", "note", "rows have a text that has no label", count, 3, (), "").said == said
