"""Texts of strangers in a terminal and in a spreadsheet."""

import pytest

from clm_kernels.finetune.judging.escaping import escaped


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain é 漢", "plain é 漢"),
        ("a\x1b[31mb", "a\\x1b[31mb"),
        ("a\nb\tc", "a\\nb\\tc"),
        ("a\u202eb", "a\\u202eb"),
        ("=1", "=1"),
    ],
)
def test_control_characters_are_written_out(text, expected):
    assert escaped(text) == expected


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)"])
def test_a_formula_is_none_in_a_sheet(text):
    assert escaped(text, sheet=True) == f"'{text}" and escaped(text) == text


def test_a_tab_before_a_formula_is_written_out():
    assert escaped("\t=1", sheet=True) == "\\t=1"
