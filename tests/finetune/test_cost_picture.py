"""cost.png: what was planned can be told from what was paid, and tokens from examples."""

from types import SimpleNamespace

import pytest

pytest.importorskip("matplotlib")
from clm_kernels.finetune.cost_picture import figure


def report(epochs, share=0.5):
    return SimpleNamespace(
        spent=[0.6] * epochs, planned=[0.5] * epochs, active=[{"tokens": share}] * epochs,
        examples=[{"examples": share}] * epochs, seconds={"epochs": [3.0] * epochs},
    )  # fmt: skip


@pytest.mark.parametrize("epochs", [1, 5, 30])
def test_plans_are_as_wide_as_their_bars(epochs):
    flops = figure(report(epochs)).axes[0]
    lines = flops.collections[-1].get_segments()
    assert len(lines) == len(flops.patches) == epochs
    for line, bar in zip(lines, flops.patches, strict=True):
        assert line[:, 0].tolist() == pytest.approx([bar.get_x(), bar.get_x() + bar.get_width()])


def test_markers_do_not_hide_each_other():
    below, above = figure(report(5)).axes[1].get_lines()
    assert above.get_fillstyle() == "none" and above.get_markersize() > below.get_markersize()
    assert above.get_linestyle() != below.get_linestyle()
    assert {line.get_marker() for line in figure(report(30)).axes[1].get_lines()} == {""}  # there is no room for them


def test_a_run_that_was_stopped_early_has_planned_more():
    stopped = report(2)
    stopped.planned = [0.5, 0.4, 0.3, 0.3]
    flops = figure(stopped).axes[0]
    assert [line[0, 1] for line in flops.collections[-1].get_segments()] == [0.5, 0.4] and len(flops.patches) == 2
