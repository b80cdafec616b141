"""The density sweep and the rule for `auto` that is made of it."""

import json
import sys
from math import inf

import pytest
import torch

from benchmarks import rule, sweep
from clm_kernels.measure import bench

CPU = torch.device("cpu")


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(bench.SHAPES, "MiniLM", (128, 192))
    monkeypatch.setattr("clm_kernels.measure.bench.timing.FLUSH", 1 << 10)
    monkeypatch.setattr(sweep, "SIZES", {"cpu": (("MiniLM", 16),)})


def test_sweep(tiny, monkeypatch, tmp_path):
    path = tmp_path / "new" / "sweep.json"
    monkeypatch.setattr(sys, "argv", ["sweep", "--quick", "--device", "cpu", "--output", str(path)])
    sweep.main()
    stored = json.loads(path.read_text())
    assert stored["machine"]["device"] == "cpu" and stored["machine"]["name"] and stored["machine"]["commit"]
    rows = stored["rows"]
    assert len({(row["kind"], row["dtype"], row["density"]) for row in rows}) == len(rows)
    assert {(row["kind"], row["dtype"]) for row in rows} == {(kind, dtype) for kind in bench.KINDS for dtype in bench.DTYPES}
    ways = {"dense + gather", *sweep.implementations(CPU)}
    for row in rows:
        assert row["work"] == 16 * 128 * 192 and set(row["microseconds"]) == ways and min(row["microseconds"].values()) > 0


def test_what_is_swept():
    """What has the op and runs on this device; Triton's interpreter says nothing about time."""
    names = set(sweep.implementations(CPU))
    assert {"reference", "matmul"} <= names <= {"reference", "matmul", "cpu"}


@pytest.mark.parametrize("name", ["dense + gather", "matmul"])
def test_a_wrong_result_is_not_timed(tiny, monkeypatch, name):
    if name == "matmul":
        right = sweep.implementations(CPU)[name]
        monkeypatch.setattr(sweep, "implementations", lambda device: {name: lambda *operands: right(*operands) + 1})
    else:
        gather = sweep.implementation("gather", CPU)
        monkeypatch.setattr(sweep, "implementation", lambda op, device: lambda *operands: gather(*operands) + 1)
        monkeypatch.setattr(sweep, "implementations", lambda device: {})
    with pytest.raises(AssertionError):
        list(sweep.sweep(CPU, quick=True))


def test_what_needs_too_much_memory_is_left_out(tiny, monkeypatch):
    def too_much(*operands):
        raise torch.OutOfMemoryError

    known = {"matmul": sweep.implementations(CPU)["matmul"], "reference": too_much}
    monkeypatch.setattr(sweep, "implementations", lambda device: known)
    assert all(set(row["microseconds"]) == {sweep.PLAIN, "matmul"} for row in sweep.sweep(CPU, quick=True))


def test_tritons_sampled_products_are_left_out_where_they_would_read_too_much(tiny, monkeypatch):
    matmul = sweep.implementations(CPU)["matmul"]
    monkeypatch.setattr(sweep, "implementations", lambda device: {"triton": matmul})
    monkeypatch.setattr(sweep, "SAMPLED_BYTES", 8 * 16 * 1000)  # of 1000 elements of 24576
    for row in sweep.sweep(CPU, quick=True):
        assert ("triton" in row["microseconds"]) == (row["kind"] != "elements" or row["density"] < 0.02)


# The rule that is made of a sweep


def rows(*, work=1000, kind="rows", dtype="float32", **microseconds):
    """Cells of densities 0.01, 0.1 and 1."""
    columns = zip(*microseconds.values(), strict=True)
    return [
        {
            "kind": kind, "dtype": dtype, "work": work, "density": density,
            "microseconds": dict(zip(microseconds, times, strict=True)) | {rule.PLAIN: 0.1},
        }
        for density, times in zip((0.01, 0.1, 1.0), columns, strict=True)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (rows(cpu=(1, 2, 3), matmul=(2, 3, 4)), [(inf, inf, "cpu")]),
        (rows(cpu=(1, 2, 9), matmul=(2, 3, 4)), [(inf, 0.32, "cpu"), (inf, inf, "matmul")]),
        (rows(cpu=(3, 2, 9), matmul=(2, 3, 4)), [(inf, 0.032, "matmul"), (inf, 0.32, "cpu"), (inf, inf, "matmul")]),
        (rows(cpu=(1, 100, 1), matmul=(2, 91, 2)), [(inf, inf, "cpu")]),  # within the margin
        (rows(cpu=(1, 100, 1), matmul=(2, 89, 2)), [(inf, 0.032, "cpu"), (inf, 0.32, "matmul"), (inf, inf, "cpu")]),
        (rows(cpu=(1, 2, 96), matmul=(2, 1, 100)), [(inf, 0.032, "cpu"), (inf, inf, "matmul")]),  # the neighbour stays
        (rows(reference=(1, 1, 1), matmul=(2, 3, 4)), [(inf, inf, "reference")]),  # what auto took was not measured
        (
            rows(cpu=(1, 2, 3), matmul=(2, 3, 4)) + rows(cpu=(1, 2, 9), matmul=(2, 3, 4), work=9000),
            [(3000, inf, "cpu"), (inf, 0.32, "cpu"), (inf, inf, "matmul")],
        ),
        (
            rows(cpu=(1, 2, 9), matmul=(2, 3, 4)) + rows(cpu=(2, 3, 9), matmul=(3, 4, 5), work=9000),
            [(inf, 0.32, "cpu"), (inf, inf, "matmul")],
        ),
    ],
)
def test_bands(cells, expected):
    assert rule.bands(cells, ("cpu",)) == expected
    assert rule.bands(cells[::-1], ("cpu",)) == expected


def _stored(path, device, cells):
    machine = {"device": device, "name": "Some", "threads": 2, "versions": {"torch": "2.13"}, "commit": "abc"}
    path.write_text(json.dumps({"machine": machine, "rows": cells}))
    return path


def test_the_module_that_is_written(tmp_path):
    cells = rows(cpu=(1, 2, 9), matmul=(2, 3, 4)) + rows(cpu=(1, 2, 3), matmul=(2, 3, 4), kind="blocks", dtype="bfloat16")
    cpu, cuda = (_stored(tmp_path / f"{device}.json", device, cells) for device in ("cpu", "cuda"))
    written: dict = {}
    exec(rule.text([cpu, cuda]), written)
    assert written["SOURCES"] == {
        "cpu": "Some, 2 threads, torch 2.13, commit abc",
        "cuda": "Some, torch 2.13, commit abc",
    }
    assert written["TABLE"]["cpu"] == {
        ("rows", "float32"): ((inf, 0.32, "cpu"), (inf, inf, "matmul")),
        ("blocks", "bfloat16"): ((inf, inf, "cpu"),),
    }
    with pytest.raises(ValueError, match="got two of cpu"):
        rule.text([cpu, cpu])


def test_the_committed_rule_is_made_of_the_committed_sweeps():
    assert rule.text(sorted(rule.RESULTS.glob("*/sweep.json"))) == rule.TARGET.read_text()
