"""What a budget chose and what it left: the table and the picture."""

import sys

import pytest
import torch
from models import build

import clm_kernels as clm
from clm_kernels.selecting.overview import draw, figure, overview
from clm_kernels.selecting.scores.sensitivity import eligible_weights
from clm_kernels.selecting.units.finding import find_units
from clm_kernels.selection import Entries, Selection


def scored(family="bert"):
    model = build(family)
    names = eligible_weights(model)
    scores = {name: torch.arange(module.weight.shape[0]).double() for name, module in names.items()}
    return model, scores


def test_lines_say_what_was_chosen_and_left():
    model, scores = scored()
    first, *_, second = scores
    selection = Selection(
        {first: Entries.of("rows", [30, 31], (32, 32)), second: Entries.of("rows", [0], (32, 48))},
    )
    lines = {line.name: line for line in overview(selection, scores, model)}
    assert list(lines) == list(scores)
    everything = sum(score.sum().item() for score in scores.values())
    assert lines[first][:8] == ("0", "attention.self.query", first, "rows", 2, 32, 64, 1024)
    assert lines[first].chosen == pytest.approx(61 / everything) and lines[first].sensitivity == pytest.approx(496 / everything)
    assert lines[second][:8] == ("1", "output", second, "rows", 1, 32, 48, 1536) and lines[second].chosen == 0
    assert lines["bert.encoder.layer.1.attention.output.dense.weight"][3:7] == ("", 0, 32, 0)
    assert sum(line.sensitivity for line in lines.values()) == pytest.approx(1)


def test_the_table_has_a_row_for_each_layer():
    model, scores = scored()
    table = str(overview(clm.budget(scores, model, density=0.25, kind="rows", per="weight"), scores, model)).splitlines()
    assert [line.split()[0] for line in table[-3:-1]] == ["0", "1"]
    # scores are 0, 1, 2, …; 24 to 31 of 32 make 220 of 496, and 36 to 47 of 48 make 498 of 1128: 1598 a layer, of 7216
    assert table[-2].split()[1:] == [*["25.0%", "(44%)"] * 6, "1,792", "22.1%", "27.9%"]
    assert table[-1] == "3,584 of 14,336 entries hold 44.3% of the sensitivity"
    assert table[0].split() == ["attention"]  # the outputs of the attention and of the layer are told apart
    header = ["layer", "query", "key", "value", "output", "intermediate", "output", "entries", "chosen", "left"]
    assert table[1].split() == header


def test_what_lies_below_and_above_the_layers_has_rows_of_its_own():
    model, scores = scored("llama")
    name = "model.embed_tokens.weight"
    scores["score.weight"] = torch.ones(3)
    scores[name] = torch.ones(64)
    selection = Selection({name: Entries.of("rows", range(32), (64, 32))})
    lines = overview(selection, scores, model)
    assert lines[0][:8] == ("below", name, name, "rows", 32, 64, 1024, 2048)
    assert lines[-1][:8] == ("above", "score.weight", "score.weight", "", 0, 3, 0, 96)
    assert [line.split()[0] for line in str(lines).splitlines()[-5:-1]] == ["below", "0", "1", "above"]
    below = next(line for line in str(lines).splitlines() if line.split()[0] == "below")
    assert below.split()[1:4] == ["50.0%", "(50%)", "1,024"]


def test_no_sensitivity_at_all():
    model, scores = scored()
    zeros = {name: torch.zeros_like(score) for name, score in scores.items()}
    assert "hold 0.0% of the sensitivity" in str(overview(clm.budget(zeros, model, density=0.1, kind="rows"), zeros, model))


def test_scores_of_another_kind_are_refused():
    model, scores = scored()
    name = list(scores)[-1]
    selection = Selection({name: Entries.of("columns", [40], (32, 48))})
    with pytest.raises(ValueError, match=rf"^overview: the scores of '{name}' must be of its 48 columns, got shape \(32,\)$"):
        overview(selection, scores, model)

    with pytest.raises(ValueError, match=r"^overview: scores must be named after the model's weights, got 'other'$"):
        overview(Selection(), scores | {"other": torch.ones(3)}, model)


def test_what_has_no_scores_is_shown_without():
    model, scores = scored("llama")
    name = "model.embed_tokens.weight"
    selection = clm.budget(scores, model, density=0.25, kind="rows") | Selection({name: Entries.of("rows", [3], (64, 32))})
    lines = overview(selection, scores, model)
    assert lines[0] == ("below", name, name, "rows", 1, 64, 32, 2048, None, None)
    below = next(line for line in str(lines).splitlines() if line.split()[0] == "below")
    assert below.split() == ["below", "1.6%", "32"]
    assert lines.hold == overview(Selection({n: e for n, e in selection.items() if n != name}), scores, model).hold
    plain = overview(selection, {}, model)
    assert {(line.sensitivity, line.chosen) for line in plain} == {(None, None)} and {line.name for line in plain} == set(
        selection
    )
    assert plain.hold == "" and plain.table()[0][-1] == "entries" and "(" not in str(plain)


def to_rgb(color):
    return pytest.importorskip("matplotlib.colors").to_rgb(color)


def luminance(color):
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in color[:3])
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


class TestPicture:
    @staticmethod
    def lines():
        model = build("modernbert", num_hidden_layers=3)
        units = find_units(model, "heads+neurons")
        scores = {name: torch.rand(part.layout.units) for name, part in units.items()}
        return overview(clm.budget(scores, model, backward=0.5, units=units, batch=2, length=8), scores, model)

    @pytest.mark.parametrize("suffix", ["png", "svg"])
    def test_is_written(self, tmp_path, suffix):
        pytest.importorskip("matplotlib")
        path = tmp_path / f"chosen.{suffix}"
        draw(self.lines(), path, "half of the backward")
        begin = path.read_bytes()[:200]
        assert begin.startswith(b"\x89PNG") if suffix == "png" else b"<?xml" in begin

    def test_every_number_is_read_on_its_colour(self):
        pytest.importorskip("matplotlib")
        made = figure(self.lines())
        for axes in made.axes:
            assert axes.get_ylabel() == "layer" and len(axes.get_yticklabels()) == 3
            (image,) = axes.get_images()
            for text in axes.texts:
                column, row = map(int, text.get_position())
                cell, ink = (luminance(rgb) for rgb in (image.to_rgba(image.get_array()[row, column]), to_rgb(text.get_color())))
                assert (max(cell, ink) + 0.05) / (min(cell, ink) + 0.05) > 4.5  # what WCAG 2 asks for

    def test_needs_matplotlib(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        with pytest.raises(ImportError, match=r"^overview.draw: the package matplotlib is needed: pip install"):
            draw(self.lines(), tmp_path / "chosen.png")
