"""Microbenchmarks: a wrong op is never timed, bytes and FLOP are counted right, and the command runs."""

import json
import shutil

import pytest
import torch
from typer.testing import CliRunner

from clm_kernels import ops
from clm_kernels.cli import app
from clm_kernels.measure import bench
from clm_kernels.measure.bench import cases

CPU = torch.device("cpu")
MACHINE = bench.Machine(copy=1e9, product={"float32": 1e9, "bfloat16": 1e9})


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(bench.SHAPES, "MiniLM", (128, 192))
    monkeypatch.setattr("clm_kernels.measure.bench.timing.FLUSH", 1 << 10)


@pytest.mark.parametrize("dtype", bench.DTYPES)
@pytest.mark.parametrize("kind", bench.KINDS)
@pytest.mark.parametrize("op", bench.OPS)
def test_every_case_is_right_and_timed(op, kind, dtype):
    if kind not in bench.KINDS_OF.get(op, bench.KINDS):
        taken = {"embedding_grad": "rows", "sensitivity": "rows or columns"}[op]
        with pytest.raises(ValueError, match=f"^bench: {op} takes {taken}, got {kind}$"):
            bench.build(op, kind, dtype, "MiniLM", CPU)
        return
    row = bench.measure(bench.build(op, kind, dtype, "MiniLM", CPU, tokens=32), MACHINE, CPU, rounds=2)
    assert row["microseconds"] > 0 and row["bytes"] > 0 and all(ratio > 0 for ratio in row["faster than"].values())
    assert row["GB/s"] == pytest.approx(row["bytes"] / row["microseconds"] / 1e3)


@pytest.mark.parametrize("op", bench.OPS)
def test_a_wrong_op_is_not_timed(op, monkeypatch):
    case = bench.build(op, "rows", "float32", "MiniLM", CPU, tokens=32)
    if op == "adamw_step_":
        monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: None)
    else:
        right = getattr(ops, op)
        wrong = {
            "scatter_": lambda dense, entries, values: right(dense, entries, values + 1),
            "masked_grad_": lambda grad, dense, entries, scale=1.0: right(grad, dense + 1, entries, scale),
        }.get(op, lambda *args: right(*args) + 1)
        monkeypatch.setattr(cases.ops, op, wrong)
    with pytest.raises(AssertionError):
        bench.measure(case, MACHINE, CPU, rounds=1)


def test_bytes_and_flop_of_a_product():
    case = bench.build("weight_grad", "rows", "bfloat16", "MiniLM", CPU, tokens=10, density=0.25)
    rows, inner = 32, 192
    assert case.flop == 2 * 10 * rows * inner
    assert case.bytes == 2 * (10 * (rows + inner) + rows * inner)


@pytest.mark.parametrize("tokens", [10, 300])
def test_bytes_and_flop_of_a_sensitivity(tokens):
    """Whole examples of 128 tokens, or one shorter one."""
    case = bench.build("sensitivity", "columns", "bfloat16", "MiniLM", CPU, tokens=tokens)
    examples, length = {10: (1, 10), 300: (2, 128)}[tokens]
    assert case.flop == examples * length * (length + 1) * (128 + 192)
    assert case.bytes == 2 * examples * length * (128 + 192) + 4 * 192


def test_the_command(tmp_path):
    output = tmp_path / "bench.json"
    result = CliRunner().invoke(app, ["bench", "--rounds", "1", "--tokens", "16", "--device", "cpu", "--output", str(output)])
    assert result.exit_code == 0, result.output
    rows = json.loads(output.read_text())["rows"]
    assert len(rows) == 5 * len(bench.KINDS) + 3 and all(row["implementation"] for row in rows)


@pytest.mark.parametrize("option", [("--shape", "GPT-5"), ("--dtype", "int8")])
def test_an_unknown_name(option):
    result = CliRunner().invoke(app, ["bench", *option, "--device", "cpu"])
    assert result.exit_code == 2 and "must be one of" in result.stderr and option[1] in result.stderr


def test_a_wrong_baseline_is_not_timed():
    """Every baseline that is verified: no result, or a step that changes nothing, is refused."""
    for op in ("weight_grad", "embedding_grad", "adamw_step_"):
        for dtype in bench.DTYPES:
            case = bench.build(op, "rows", dtype, "MiniLM", CPU, tokens=32)
            for name, right in [*case.baselines.items()]:
                wrong = (lambda: None) if op == "adamw_step_" else (lambda right=right: right() + 1)
                case.baselines[name] = wrong
                with pytest.raises(AssertionError):
                    bench.measure(case, MACHINE, CPU, rounds=1)
                case.baselines[name] = right
            bench.measure(case, MACHINE, CPU, rounds=1)


def test_sparse_adam_stands_beside_rows_alone():
    for kind in bench.KINDS:
        case = bench.build("adamw_step_", kind, "float32", "MiniLM", CPU)
        assert ("SparseAdam (no decay)" in case.baselines) == (kind == "rows")


COMPILED = {"weight_grad": "dense + gather, compiled", "adamw_step_": "torch foreach, compiled"}


@pytest.mark.parametrize("op", COMPILED)
def test_nothing_is_compiled_unless_asked_for(op, monkeypatch):
    seen, compile = [], torch.compile
    monkeypatch.setattr(torch, "compile", lambda call, **options: seen.append(call) or compile(call, backend="eager", **options))
    for kind in ("rows", "elements"):
        case = bench.build(op, kind, "float32", "MiniLM", CPU, tokens=32)
        plain = bench.measure(case, MACHINE, CPU, rounds=1)
        assert not seen
        row = bench.measure(case, MACHINE, CPU, rounds=1, compiled=True)
        assert len(seen) == 1 and set(row["faster than"]) - set(plain["faster than"]) == {COMPILED[op]}
        seen.clear()


def test_each_case_is_compiled_however_many_there_were(monkeypatch):
    """Closures share their code object, for which torch compiles eight times at most."""
    graphs, compile = [], torch.compile
    backend = lambda graph, _: graphs.append(graph) or graph.forward  # noqa: E731
    monkeypatch.setattr(torch, "compile", lambda call, **options: compile(call, backend=backend, **options))
    for tokens in range(2, 12):
        case = bench.build("weight_grad", "rows", "float32", "MiniLM", CPU, tokens=tokens)
        bench.measure(case, MACHINE, CPU, rounds=1, compiled=True)
    assert len(graphs) == 10


@pytest.mark.skipif(not (shutil.which("c++") or shutil.which("g++")), reason="inductor needs a C++ compiler")
def test_the_compiled_product():
    case = bench.build("weight_grad", "columns", "float32", "MiniLM", CPU, tokens=32)
    assert bench.measure(case, MACHINE, CPU, rounds=1, compiled=True)["faster than"]["dense + gather, compiled"] > 0
