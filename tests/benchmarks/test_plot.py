"""Pictures are made from what is stored alone, and show what stands there."""

import json
import math
import os
import subprocess
import sys

import pytest
from places import ROOT
from typer.testing import CliRunner

from benchmarks import plot
from clm_kernels.cli import app
from clm_kernels.measure import bench

MACHINE = {
    "device": "cpu", "name": "Some", "threads": 2, "versions": {"torch": "2.13"}, "commit": "abc",
    "copy": 1e10, "product": {"float32": 1e11, "bfloat16": 4e11},
}  # fmt: skip


def cells(plain=(4000, 4000, 4000), **ways):
    return [
        {
            "kind": kind, "dtype": dtype, "shape": "MiniLM", "size": [8, 8], "tokens": 4, "work": 256, "density": density,
            "microseconds": {plot.PLAIN: plain[i]} | {name: times[i] for name, times in ways.items() if times[i] is not None},
        }
        for kind in bench.KINDS
        for dtype in ("float32", "bfloat16")
        for i, density in enumerate((0.01, 0.1, 1.0))
    ]  # fmt: skip


def case(op="weight_grad", kind="rows", flop=1000, dtype="float32", microseconds=2.0):
    return {
        "op": op, "kind": kind, "dtype": dtype, "shape": "MiniLM", "flop": flop, "bytes": 500, "microseconds": microseconds,
        "% of copy": 2.5, "faster than": {},
    }  # fmt: skip


CASES = [case(), case(kind="blocks"), case("adamw_step_", flop=40), case("gather", flop=0), case(dtype="bfloat16")]


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved, by the name of their file."""
    kept, saved = {}, plot._saved
    monkeypatch.setattr(plot, "_saved", lambda figure, path: kept.update({path.name: figure}) or saved(figure, path))
    return kept


def store(path, **stored):
    path.write_text(json.dumps({"machine": MACHINE, **stored}))
    return path


@pytest.mark.parametrize(
    ("ours", "expected"),
    [
        ((1, 2, 8), 10**-0.5), ((2, 8, 9), 10**-1.5), ((1, 2, 3), math.inf), ((4, 1, 1), 0.0), ((1, 4, 1), 0.1),
        ((1, 2, 4), 1.0), ((1, 1, 16), 10**-0.5),
    ],
)  # fmt: skip
def test_crossover(ours, expected):
    assert plot.crossover((0.01, 0.1, 1.0), ours, (4, 4, 4)) == pytest.approx(expected)


def test_density_sweep(tmp_path, figures, monkeypatch, capsys):
    rows = cells(cpu=(1000, 2000, 8000), matmul=(5000, 6000, 9000), reference=(500, 900, None))
    store(tmp_path / "sweep.json", rows=rows[::-1])
    monkeypatch.setattr(sys, "argv", ["plot", str(tmp_path)])
    plot.main()
    said = capsys.readouterr().out
    assert said.count("up to 32 %") == said.count("nowhere") == said.count("everywhere") == 2 * len(bench.KINDS)
    for dtype in bench.DTYPES:
        name = f"sweep-{dtype}.png"
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG") and f"drawn: {tmp_path / name}" in said
        panels = figures[name].axes
        assert {axes.get_title(loc="left") for axes in panels} == set(bench.KINDS)
        for axes in panels:
            marks = [line for line in axes.lines if line.get_marker() == "o"]
            assert [(*mark.get_xdata(), *mark.get_ydata()) for mark in marks] == [pytest.approx((10**-0.5, 4.0))]
            curves = {tuple(line.get_ydata()) for line in axes.lines if line not in marks}
            assert curves == {(4.0, 4.0, 4.0), (1.0, 2.0, 8.0), (5.0, 6.0, 9.0), (0.5, 0.9)}
            assert "cpu up to 32 %" in {text.get_text() for text in axes.texts}


@pytest.mark.parametrize("suite", [False, True], ids=["clm-kernels bench", "pytest-benchmark"])
def test_roofline(tmp_path, figures, suite):
    stored = {"benchmarks": [{"name": "test_op", "extra_info": row} for row in CASES]} if suite else {"rows": CASES}
    path = store(tmp_path / "micro.json", **stored)
    assert plot.draw(path) == [tmp_path / "micro.png"]
    assert (tmp_path / "micro.png").read_bytes().startswith(b"\x89PNG")
    roofs, wide, shares, _ = figures["micro.png"].axes
    assert (roofs.get_title(loc="left"), wide.get_title(loc="left")) == ("float32", "bfloat16")
    roof, *points = roofs.lines
    assert (roof.get_xdata()[1], roof.get_ydata()[1]) == (10.0, 1e11)  # where bytes and FLOP take equally long
    assert roof.get_ydata()[0] == pytest.approx(1e10 * roof.get_xdata()[0])
    assert sorted((*p.get_xdata(), *p.get_ydata()) for p in points) == [(0.08, 2e7), (2.0, 5e8), (2.0, 5e8)]
    assert len(wide.lines) == 2 and wide.lines[0].get_ydata()[1] == 4e11
    assert [label.get_text() for label in shares.get_yticklabels()] == ["gather rows"]
    assert list(shares.lines[0].get_xdata()) == [2.5]


def test_other_results_are_left_alone(tmp_path, monkeypatch):
    store(tmp_path / "step.json", rows=[{"what": "step", "measured": 1.0}])
    store(tmp_path / "empty.json", rows=[])
    monkeypatch.setattr(sys, "argv", ["plot", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"^plot: no microbenchmarks and no sweep in "):
        plot.main()


def test_what_the_programs_store_can_be_drawn(tmp_path, monkeypatch):
    """Both write one description of the machine."""
    paths = [tmp_path / "command.json", tmp_path / "suite.json"]
    monkeypatch.setitem(bench.SHAPES, "MiniLM", (128, 192))
    options = ["--rounds", "1", "--tokens", "16", "--device", "cpu", "--output", str(paths[0])]
    assert CliRunner().invoke(app, ["bench", *options]).exit_code == 0
    suite = [sys.executable, "-m", "pytest", "benchmarks", "--benchmark-only", f"--benchmark-json={paths[1]}"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}  # xdist's turn it off
    run = subprocess.run(
        [*suite, "-k", "weight_grad-rows-float32-MiniLM or gather-rows-bfloat16-MiniLM"], cwd=ROOT, capture_output=True,
        text=True, env=environment | {"CLM_KERNELS_COMPILE": "0"}, timeout=300,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout
    command, suite = (json.loads(path.read_text()) for path in paths)
    assert set(command["machine"]) == set(suite["machine"]) >= {"copy", "product", "versions", "commit", "name"}
    assert set(command["rows"][0]) == set(plot.micro_rows(suite)[0]) and len(plot.micro_rows(suite)) == 2
    for path in paths:
        assert plot.draw(path) == [path.with_suffix(".png")] and path.with_suffix(".png").is_file()
