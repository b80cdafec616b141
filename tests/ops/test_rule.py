"""`auto` follows the measured rule, call by call, and says so."""

from math import inf

import pytest
import torch
from typer.testing import CliRunner

from clm_kernels import ops
from clm_kernels.cli import app
from clm_kernels.measure import bench
from clm_kernels.ops import registry, rule, schemas
from clm_kernels.selection import Entries

CPU = torch.device("cpu")
TOKENS, SHAPE = 8, (64, 64)
TABLE = {
    ("rows", "float32"): ((8 * 64 * 64, 0.25, "reference"), (8 * 64 * 64, inf, "matmul"), (inf, inf, "reference")),
    ("columns", "float32"): ((inf, inf, "matmul"),),
    ("blocks", "float32"): ((inf, 0.25, "reference"), (inf, inf, "matmul")),
    ("elements", "float32"): ((inf, 0.25, "reference"), (inf, inf, "matmul")),
}


@pytest.fixture
def ran(monkeypatch):
    """Names of the implementations that ran, under a rule of our own."""
    names = []
    monkeypatch.setattr(registry, "TABLE", {"cpu": TABLE})
    monkeypatch.setattr(registry, "UNITS", {})
    monkeypatch.setattr(registry, "GROUPED", {})
    monkeypatch.setattr(registry, "_wanted", "auto")
    monkeypatch.setitem(rule.SOURCES, "cpu", "the machine under the desk")
    for name in ("reference", "matmul", "cpu"):
        if registry.why_not(name) is None:
            module = registry._load(name)
            right = module.weight_grad
            monkeypatch.setattr(module, "weight_grad", lambda *args, n=name, f=right: names.append(n) or f(*args))
    registry._function.cache_clear()
    yield names
    registry._function.cache_clear()


def _entries(kind, density, shape=SHAPE):
    block = (8, 8) if kind == "blocks" else None
    units = Entries.of(kind, [], shape, block).units
    return Entries.of(kind, range(round(density * units)), shape, block)


@pytest.mark.parametrize(
    ("kind", "density", "tokens", "expected"),
    [
        ("rows", 0.25, TOKENS, "reference"), ("rows", 0.27, TOKENS, "matmul"), ("rows", 1.0, TOKENS, "matmul"),
        ("rows", 1.0, TOKENS + 1, "reference"), ("columns", 0.1, TOKENS, "matmul"), ("columns", 1.0, TOKENS, "matmul"),
        ("blocks", 0.25, TOKENS, "reference"), ("blocks", 0.27, TOKENS, "matmul"), ("elements", 0.25, TOKENS, "reference"),
        ("elements", 0.27, TOKENS, "matmul"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("way", ["op", "direct"])
def test_the_call_decides(ran, way, kind, density, tokens, expected):
    entries = _entries(kind, density)
    dy, x = torch.randn(tokens, 64), torch.randn(tokens, 64)
    if way == "op":
        result = ops.weight_grad(dy, x, entries)
    else:
        result = schemas.direct("weight_grad", dy)(dy, x, entries.index, entries.layout, torch.float32)
    assert ran == [expected]
    torch.testing.assert_close(result, ops.gather(dy.T @ x, entries))
    work = tokens * 64 * 64
    assert ops.chosen(CPU, "weight_grad", kind, torch.float32, work, entries.density) == expected
    assert ops.chosen(CPU, "weight_grad") == "reference or matmul"


def test_what_was_not_measured_is_as_before(ran):
    """float64 here; and an empty selection, and an empty weight, are no reason to fail."""
    before = registry._choose("auto", "cpu", "weight_grad")
    ops.weight_grad(torch.randn(4, 64).double(), torch.randn(4, 64).double(), _entries("rows", 0.5))
    assert ran == [before] and ops.chosen(CPU, "weight_grad", "rows", torch.float64, 1, 1) == before
    for shape in (SHAPE, (0, 64)):
        assert ops.weight_grad(torch.randn(4, shape[0]), torch.randn(4, 64), _entries("rows", 0.0, shape)).shape == (0, 64)


UNITS = {
    ("rows", "float32"): ((2, "matmul"),),
    ("columns", "float32"): ((2, "reference"), (inf, "matmul")),
    ("columns", "bfloat16"): ((4, "reference"), (inf, "matmul")),
}


@pytest.mark.parametrize(
    ("kind", "units", "expected"),
    [
        ("rows", 1, "matmul"),
        ("rows", 2, "matmul"),
        ("rows", 3, "reference"),
        ("columns", 2, "reference"),
        ("columns", 3, "matmul"),
    ],
)
def test_few_rows_or_columns_decide_first(ran, monkeypatch, kind, units, expected):
    """Unless the result's dtype is another one: that was not measured."""
    monkeypatch.setattr(registry, "UNITS", {"cpu": UNITS})
    entries, dy, x = _entries(kind, units / 64), torch.randn(TOKENS, 64), torch.randn(TOKENS, 64)
    assert entries.index.numel() == units
    grad = ops.weight_grad(dy, x, entries)
    torch.testing.assert_close(grad, ops.gather(dy.T @ x, entries))
    ops.weight_grad(dy, x, entries, torch.float64)
    assert ran == [expected, "reference" if kind == "rows" else "matmul"]
    arguments = CPU, "weight_grad", kind, torch.float32, TOKENS * 64 * 64, entries.density
    assert ops.chosen(*arguments, units) == expected and ops.chosen(*arguments) == ran[1]


def test_bfloat16_wants_a_processor_that_multiplies_it(ran, monkeypatch):
    monkeypatch.setattr(registry, "UNITS", {"cpu": UNITS})
    for able in (False, True):
        monkeypatch.setattr(registry, "bfloat16_products", lambda able=able: able)
        assert (("columns", "bfloat16") in registry.by_units("cpu")) == able
        said = CliRunner().invoke(app, ["doctor"]).stdout
        assert ("columns of bfloat16: reference up to 4 of them, matmul above" in said) == able
        assert "rows of float32: matmul up to 2 of them, above as below" in said


@pytest.mark.skipif(registry.why_not("cpu") is not None, reason="needs the C++ kernels")
def test_the_products_that_torch_makes_faster(monkeypatch):
    """One row or column; in bfloat16 more than four, where the processor has AVX512-BF16."""
    monkeypatch.setattr(registry, "_wanted", "auto")
    products = registry.bfloat16_products()
    assert products == registry._load("cpu").bfloat16_products
    expected = {torch.float32: (1, "matmul", "cpu"), torch.float64: (1, "matmul", "cpu"), torch.float16: (1, "cpu", "cpu")}
    expected[torch.bfloat16] = (4, "cpu", "matmul" if products else "cpu")
    for dtype, (most, few, more) in expected.items():
        for kind in ("rows", "columns"):
            for units, name in ((1, few), (most, few), (most + 1, more), (40, more)):
                assert ops.chosen(CPU, "weight_grad", kind, dtype, 1e9, 0.01, units) == name


def test_one_asked_for_by_name_does_not_look(ran):
    with ops.backend("matmul"):
        assert registry.implementation("weight_grad", CPU) is registry._load("matmul").weight_grad
        assert ops.chosen(CPU, "weight_grad", "rows", torch.float32, 1, 0.1) == "matmul"


def test_dealt_groups_have_a_line_of_their_own(ran, monkeypatch):
    monkeypatch.setattr(registry, "GROUPED", {"cpu": {("groups", "float32"): ((inf, inf, "matmul"),)}})
    registry._function.cache_clear()
    dy, x = torch.randn(TOKENS, 64), torch.randn(TOKENS, 64)
    scattered = Entries.of("blocks", [0, 1, 8], SHAPE, (8, 8))
    for entries, expected in ((_entries("blocks", 0.25), "matmul"), (scattered, "reference")):
        ran.clear()
        ops.weight_grad(dy, x, entries)
        assert ran == [expected]
    ran.clear()
    ops.weight_grad(dy.bfloat16(), x.bfloat16(), _entries("blocks", 0.25))  # a dtype that has none
    assert ran == [registry._choose("auto", "cpu", "weight_grad")]
    assert ops.chosen(CPU, "weight_grad", "groups", torch.float32) == "matmul"


def test_one_implementation_for_all_does_not_look(ran, monkeypatch):
    before = registry._choose("auto", "cpu", "weight_grad")
    monkeypatch.setattr(registry, "TABLE", {"cpu": dict.fromkeys(TABLE, ((inf, 0.5, before), (inf, inf, before)))})
    assert registry.implementation("weight_grad", CPU) is registry._load(before).weight_grad


def test_one_that_cannot_run_gives_way_and_doctor_says_so(ran, monkeypatch):
    table = {("rows", "float32"): ((inf, 0.25, "cpu"), (inf, inf, "matmul"))}
    monkeypatch.setattr(registry, "TABLE", {"cpu": table})
    monkeypatch.setattr(registry, "why_not", lambda name: "install a C++ compiler" if name == "cpu" else None)
    ops.weight_grad(torch.randn(4, 64), torch.randn(4, 64), _entries("rows", 0.1))
    assert ran == ["matmul"]
    said = " ".join(CliRunner().invoke(app, ["doctor"]).stdout.split())
    assert "rows: matmul" in said
    assert "as cpu cannot run: install a C++ compiler" in said


def test_doctor_says_the_rule_in_words(ran, monkeypatch):
    said = " ".join(CliRunner().invoke(app, ["doctor"]).stdout.split())
    assert "weight_grad on cpu, as measured on the machine under the desk" in said
    assert "rows: tokens x rows x columns up to 3.3e+04: reference up to 25 %, matmul above; beyond: reference" in said
    assert "columns: matmul" in said and "blocks: reference up to 25 %, matmul above" in said
    monkeypatch.setattr(registry, "TABLE", {})
    assert "nothing has been measured on such a device" in " ".join(CliRunner().invoke(app, ["doctor"]).stdout.split())
    monkeypatch.setenv("CLM_KERNELS_BACKEND", "reference")
    assert "nothing has been measured" not in CliRunner().invoke(app, ["doctor"]).stdout


def test_bench_names_what_ran(ran, monkeypatch):
    """Of each case, at its own size."""
    monkeypatch.setitem(bench.SHAPES, "MiniLM", (64, 64))
    monkeypatch.setattr("clm_kernels.measure.bench.timing.FLUSH", 1 << 10)
    machine = bench.Machine(copy=1e9, product={"float32": 1e9})
    for density, tokens in ((0.1, TOKENS), (0.5, TOKENS), (0.5, 2 * TOKENS)):
        case = bench.build("weight_grad", "rows", "float32", "MiniLM", CPU, tokens, density)
        ran.clear()
        row = bench.measure(case, machine, CPU, rounds=1)
        assert {row["implementation"]} == set(ran)


def test_every_implementation_of_the_rule_is_one_of_its_device():
    for device, table in rule.TABLE.items():
        assert rule.SOURCES[device]
        for (kind, dtype), bands in table.items():
            assert kind in bench.KINDS and isinstance(getattr(torch, dtype), torch.dtype)
            assert bands[-1][:2] == (inf, inf) and list(bands) == sorted(bands, key=lambda band: band[:2])
            assert all(registry.DEVICES[name] in (None, device) for *_, name in bands)
