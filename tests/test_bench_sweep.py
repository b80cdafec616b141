"""The density sweep and the rule for `auto` that is made of it."""

import json
import sys

import pytest
import torch

from benchmarks import sweep
from clm_kernels import bench

CPU = torch.device("cpu")


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(bench.SHAPES, "MiniLM", (128, 192))
    monkeypatch.setattr("clm_kernels.bench.timing.FLUSH", 1 << 10)
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
    """What runs on this device and is not there under another name; Triton's interpreter says nothing about time."""
    names = set(sweep.implementations(CPU))
    assert {"reference", "vendor"} <= names <= {"reference", "vendor", "cpu"}


@pytest.mark.parametrize("name", ["dense + gather", "vendor"])
def test_a_wrong_result_is_not_timed(tiny, monkeypatch, name):
    if name == "vendor":
        right = sweep.implementations(CPU)[name]
        monkeypatch.setattr(sweep, "implementations", lambda device: {name: lambda *operands: right(*operands) + 1})
    else:
        gather = sweep.implementation("gather", CPU)
        monkeypatch.setattr(sweep, "implementation", lambda op, device: lambda *operands: gather(*operands) + 1)
        monkeypatch.setattr(sweep, "implementations", lambda device: {})
    with pytest.raises(AssertionError):
        sweep.sweep(CPU, quick=True)


def test_the_reference_is_left_out_where_it_would_gather_too_much(tiny, monkeypatch):
    monkeypatch.setattr(sweep, "REFERENCE_BYTES", 16 * 4 * 2 * 1000)  # of 1000 elements of 24576
    for row in sweep.sweep(CPU, quick=True):
        if row["kind"] in ("rows", "columns", "elements"):
            assert ("reference" in row["microseconds"]) == (row["kind"] != "elements" or row["density"] < 0.02)
