"""What fits a console's width."""

import pytest

from clm_kernels.cli.console import folded, wrapped


def test_names_end_at_underscores_and_spaces():
    assert folded("balance_not_updated_after_bank_transfer", 28) == "balance_not_updated_after_\nbank_transfer"
    assert folded("a b c", 3) == "a b\nc" and folded("abcdef", 3) == "abcdef" and folded("", 3) == ""
    assert folded("a\n\x1b", 9) == "a\\n\\x1b"


@pytest.mark.parametrize("columns", [40, 80])
def test_lines_end_at_spaces(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = wrapped(f"  {'word ' * 40}{'/folder' * 20}").splitlines()
    assert all(len(line) <= columns for line in lines[:-1]) and all(line.startswith("    ") for line in lines[1:])
    assert lines[-1].strip() == "/folder" * 20
