"""The picture of token groups: texts stay in their cells, and every label has a line."""

import pytest

from clm_kernels.token_groups.groups import TokenGroup, TokenGroups

pytest.importorskip("matplotlib")
from clm_kernels.token_groups.picture import figure


def group(text, z=3.0):
    return TokenGroup(text, (text,), (1,), "a", z, z, 5, 6)


def made(**classes):
    by_class = {label: list(map(group, texts)) for label, texts in classes.items()}
    return TokenGroups(by_class, dict.fromkeys(by_class, 1234), "log-odds", 5, 4)


def test_texts_stay_in_their_cells():
    drawn = figure(made(a=["W" * 40, "short", "W" * 25, "漢" * 30], b=["m" * 26] * 6))
    drawn.canvas.draw()
    (axes,) = drawn.axes
    for text, bar in zip(axes.texts, axes.patches, strict=True):
        inside, cell = text.get_window_extent(), bar.get_window_extent()
        assert cell.x0 <= inside.x0 and inside.x1 <= cell.x1


def test_every_label_has_a_line_and_room():
    drawn = figure(made(**{"a": ["refund"], "b": [], "long " * 30: ["x"]}))
    drawn.canvas.draw()
    (axes,) = drawn.axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names[:2] == ["a (1,234)", "b (1,234)"] and names[2].startswith("long") and names[2].endswith("long  (1,234)")
    assert "no group of words tells it" in [text.get_text() for text in axes.texts]
    assert all(label.get_window_extent().x0 >= 0 for label in axes.get_yticklabels())
