"""Pictures of confusion and calibration: what they show, told by the axes that were drawn."""

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="matplotlib is not installed")
from matplotlib.figure import Figure

from clm_kernels.finetune.judging.calibration import reliability
from clm_kernels.finetune.judging.confusion_picture import draw_confusion, shortened
from clm_kernels.finetune.judging.reliability_picture import draw_reliability


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved, as they are then."""
    saved, save = [], Figure.savefig

    def keep(self, *args, **kwargs):
        saved.append(self)
        save(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    return saved


def errors(size, count, seed=0):
    rng = np.random.default_rng(seed)
    matrix = np.diag(rng.integers(20, 30, size))
    for _ in range(count):
        matrix[tuple(rng.integers(0, size, 2))] += 1
    return matrix


def test_150_labels_all_keep_their_names_and_none_stands_on_another(figures, tmp_path):
    names = [f"label_{i}" for i in range(150)]
    draw_confusion(errors(150, 400), names, tmp_path / "c.png")
    (figure,) = figures
    axes = figure.axes[0]
    shown = [text.get_text() for text in axes.get_yticklabels()]
    assert sorted(shown) == sorted(names) == sorted(text.get_text() for text in axes.get_xticklabels())
    line = axes.get_window_extent().height / figure.dpi / 150
    assert max(text.get_fontsize() for text in [*axes.get_xticklabels(), *axes.get_yticklabels()]) / 72 < line
    assert sum(line.get_marker() == "s" for line in axes.lines) == 20  # the worst cells


def test_of_too_many_labels_those_with_the_most_errors_keep_their_names(figures, tmp_path):
    matrix = np.diag([9] * 400)
    matrix[123, 321] = 5
    draw_confusion(matrix, [f"label_{i}" for i in range(400)], tmp_path / "c.png")
    shown = {text.get_text() for text in figures[0].axes[0].get_yticklabels()}
    assert 100 < len(shown) < 200 and {"label_123", "label_321"} & shown


def test_few_labels_show_every_count_and_the_worst_pair_is_named(figures, tmp_path):
    draw_confusion(np.array([[40, 3, 0], [0, 60, 7], [0, 0, 5]]), ["$yes$", "no", "may_be"], tmp_path / "c.png")
    texts = [text.get_text() for text in figures[0].axes[0].texts]
    assert {"40", "3", "60", "7", "5"} <= set(texts) and "0" not in texts
    assert "1  no → may_be  7 of 67" in texts[-1] and "2  $yes$ → no  3 of 43" in texts[-1]


def test_without_errors_it_says_so(figures, tmp_path):
    draw_confusion(np.diag([3, 4]), ["a", "b"], tmp_path / "c.png")
    assert figures[0].axes[0].texts[-1].get_text() == "no label was taken for another"


def test_an_empty_row_is_drawn(tmp_path):
    draw_confusion(np.zeros((2, 2), int), ["a", "b"], tmp_path / "c.png")
    assert (tmp_path / "c.png").stat().st_size > 0


def test_names_that_differ_at_their_end_still_do():
    names = [f"balance_not_updated_after_{what}" for what in ("cheque_or_cash", "bank_transfer")]
    assert len({shortened(name, 26) for name in names}) == 2 and max(len(shortened(name, 26)) for name in names) == 26
    assert shortened("short", 26) == "short"


def test_the_bars_are_the_bins(figures, tmp_path):
    bins = reliability(np.array([0.95, 0.95, 0.55]), np.array([1, 0, 1]), bins=10)
    draw_reliability(bins, tmp_path / "r.png", "words")
    right, counts = figures[0].axes
    assert [bar.get_height() for bar in right.containers[0]] == [1, 0.5]
    assert [bar.get_height() for bar in right.containers[1]] == pytest.approx([-0.45, 0.45])
    assert all(bar.get_hatch() for bar in right.containers[1])
    assert [bar.get_height() for bar in counts.containers[0]] == [1, 2] and counts.get_ylabel() == "words"
    assert "0.450" in figures[0]._suptitle.get_text()
