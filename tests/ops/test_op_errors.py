"""What the ops refuse, in words; the registry; and that torch sees each op registered once."""

import os
import re
import subprocess
import sys

import pytest
import torch
from oracles import KINDS, entries_of

from clm_kernels import Entries, ops
from clm_kernels.ops import registry
from clm_kernels.ops.layout import Layout

ROWS, COLUMNS, BLOCKS = (Entries.of(kind, [0, 2], (4, 6), (2, 3) if kind == "blocks" else None) for kind in KINDS[:3])
ELSEWHERE = ROWS.to("meta")


def with_index(index):
    """Rows with an index that Entries itself would refuse."""
    entries = Entries.of("rows", [0, 2], (4, 6))
    object.__setattr__(entries, "_held", index)
    return entries


def f(*shape, dtype=torch.float32, device="cpu"):
    return torch.zeros(shape, dtype=dtype, device=device)


FLOATS = "float32, float64, bfloat16 or float16"
half, double, ints = ({"dtype": dtype} for dtype in (torch.float16, torch.float64, torch.int64))
REFUSED = [
    # weight_grad
    (lambda: ops.weight_grad(f(5, 4, **ints), f(5, 6), ROWS), f"weight_grad: dy must be {FLOATS}, got torch.int64"),
    (lambda: ops.weight_grad(f(5, 4), f(5, 6, **half), ROWS), "weight_grad: x must be torch.float32 as dy, got torch.float16"),
    (lambda: ops.weight_grad(f(5, 4), f(5, 6, device="meta"), ROWS), "weight_grad: x must be on cpu as dy, got meta"),
    (lambda: ops.weight_grad(f(5, 3), f(5, 6), ROWS), "weight_grad: dy must be of shape (T, 4) or (T, 2), got (5, 3)"),
    (lambda: ops.weight_grad(f(5, 4), f(5, 2), ROWS), "weight_grad: x must be of shape (T, 6), got (5, 2)"),
    (lambda: ops.weight_grad(f(5, 4), f(5, 5), COLUMNS), "weight_grad: x must be of shape (T, 6) or (T, 2), got (5, 5)"),
    (lambda: ops.weight_grad(f(5, 2), f(5, 6), COLUMNS), "weight_grad: dy must be of shape (T, 4), got (5, 2)"),
    (lambda: ops.weight_grad(f(5, 4), f(5, 2), BLOCKS), "weight_grad: x must be of shape (T, 6), got (5, 2)"),
    (lambda: ops.weight_grad(f(1, 5, 4), f(5, 6), ROWS), "weight_grad: dy must be of shape (T, 4) or (T, 2), got (1, 5, 4)"),
    (lambda: ops.weight_grad(f(5, 4), f(3, 6), ROWS), "weight_grad: x must be of 5 tokens as dy, got 3"),
    (lambda: ops.weight_grad(f(5, 4), f(5, 6), ROWS, torch.int32), f"weight_grad: dtype must be {FLOATS}, got torch.int32"),
    (lambda: ops.weight_grad(f(5, 4), f(5, 6), ELSEWHERE), "weight_grad: index must be on cpu, got meta"),
    (
        lambda: ops.weight_grad(f(5, 4), f(5, 6), with_index(torch.tensor([0.0, 2.0]))),
        "weight_grad: index must be 1-D, int32 or int64, got torch.float32 of shape (2,)",
    ),
    (
        lambda: ops.weight_grad(f(5, 4), f(5, 6), with_index(torch.tensor([[0, 2]]))),
        "weight_grad: index must be 1-D, int32 or int64, got torch.int64 of shape (1, 2)",
    ),
    (
        lambda: ops.weight_grad(f(5, 4), f(5, 6), with_index(torch.arange(4)[::2])),
        "weight_grad: index must be contiguous, got strides (2,)",
    ),
    # embedding_grad
    (lambda: ops.embedding_grad(f(5, 6, **ints), f(5, **ints), ROWS), f"embedding_grad: dy must be {FLOATS}, got torch.int64"),
    (lambda: ops.embedding_grad(f(5, 6), f(5, **ints), COLUMNS), "embedding_grad: entries must be rows, got columns"),
    (lambda: ops.embedding_grad(f(5, 4), f(5, **ints), ROWS), "embedding_grad: dy must be of shape (T, 6), got (5, 4)"),
    (lambda: ops.embedding_grad(f(2, 5, 6), f(5, **ints), ROWS), "embedding_grad: dy must be of shape (T, 6), got (2, 5, 6)"),
    (lambda: ops.embedding_grad(f(5, 6), f(5), ROWS), "embedding_grad: ids must be int32 or int64, got torch.float32"),
    (lambda: ops.embedding_grad(f(5, 6), f(4, **ints), ROWS), "embedding_grad: ids must be of shape (5,), got (4,)"),
    (lambda: ops.embedding_grad(f(5, 6), f(1, 5, **ints), ROWS), "embedding_grad: ids must be of shape (5,), got (1, 5)"),
    (
        lambda: ops.embedding_grad(f(5, 6), f(5, **ints, device="meta"), ROWS),
        "embedding_grad: ids must be on cpu as dy, got meta",
    ),
    (lambda: ops.embedding_grad(f(5, 6), f(5, **ints), ELSEWHERE), "embedding_grad: index must be on cpu, got meta"),
    (
        lambda: ops.embedding_grad(f(5, 6), f(5, **ints), ROWS, torch.bool),
        f"embedding_grad: dtype must be {FLOATS}, got torch.bool",
    ),
    # gather, scatter_
    (lambda: ops.gather(f(6, 4), ROWS), "gather: dense must be of shape (4, 6), got (6, 4)"),
    (lambda: ops.gather(f(4, 6, **ints), ROWS), f"gather: dense must be {FLOATS}, got torch.int64"),
    (lambda: ops.gather(f(4, 6), ELSEWHERE), "gather: index must be on cpu, got meta"),
    (lambda: ops.scatter_(f(4, 5), ROWS, f(2, 6)), "scatter_: dense must be of shape (4, 6), got (4, 5)"),
    (lambda: ops.scatter_(f(6, 4).T, ROWS, f(2, 6)), "scatter_: dense must be contiguous, got strides (1, 4)"),
    (lambda: ops.scatter_(f(4, 6), ROWS, f(6, 2)), "scatter_: values must be of shape (2, 6), got (6, 2)"),
    (lambda: ops.scatter_(f(4, 6), COLUMNS, f(2, 6)), "scatter_: values must be of shape (4, 2), got (2, 6)"),
    (lambda: ops.scatter_(f(4, 6), BLOCKS, f(2, 6)), "scatter_: values must be of shape (2, 2, 3), got (2, 6)"),
    (
        lambda: ops.scatter_(f(4, 6), ROWS, f(2, 6, **double)),
        "scatter_: values must be torch.float32 as dense, got torch.float64",
    ),
    (lambda: ops.scatter_(f(4, 6), ROWS, f(2, 6, device="meta")), "scatter_: values must be on cpu as dense, got meta"),
    # masked_grad_
    (lambda: ops.masked_grad_(f(2, 6), f(6, 4), ROWS), "masked_grad_: dense_grad must be of shape (4, 6), got (6, 4)"),
    (lambda: ops.masked_grad_(f(3, 6), f(4, 6), ROWS), "masked_grad_: grad must be of shape (2, 6), got (3, 6)"),
    (lambda: ops.masked_grad_(f(2, 6, **ints), f(4, 6), ROWS), f"masked_grad_: grad must be {FLOATS}, got torch.int64"),
    (lambda: ops.masked_grad_(f(6, 2).T, f(4, 6), ROWS), "masked_grad_: grad must be contiguous, got strides (1, 2)"),
    (
        lambda: ops.masked_grad_(f(2, 6, device="meta"), f(4, 6), ROWS),
        "masked_grad_: grad must be on cpu as dense_grad, got meta",
    ),
]


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_refused_arguments(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()


def step(**changes):
    """A call of `adamw_step_` that fits, but for `changes`: name -> tensor of its one parameter, or a whole argument."""
    lists = {name: f(2, 6) for name in ("values", "grads", "exp_avgs", "exp_avg_sqs")}
    lists |= {name: f(0) for name in ("max_exp_avg_sqs", "masters", "anchors")} | {"denses": f(4, 6), "indices": ROWS.index}
    rest = {"layouts": [*ROWS.layout], "settings": torch.tensor([[1e-3, 0.9, 0.999, 1e-8, 0.1, 1.0]], dtype=torch.float64)}
    options = {name: changes.pop(name) for name in ("amsgrad", "grad_scale", "found_inf", "clip") if name in changes}
    rest |= {name: changes.pop(name) for name in ("layouts", "settings") if name in changes}
    given = {name: value if isinstance(value, list) else [value] for name, value in (lists | changes).items()}
    ops.adamw_step_(*given.values(), *rest.values(), **options)


REFUSED_STEPS = [
    ({"grads": []}, "adamw_step_: grads must be a list of 1 as values, got 0"),
    ({"indices": [ROWS.index] * 2}, "adamw_step_: indices must be a list of 1 as values, got 2"),
    ({"layouts": [0, 4]}, "adamw_step_: layouts must be 5 ints, got 2"),
    (
        {"settings": f(1, 6)},
        "adamw_step_: settings must be float64 of shape (1, 6) on cpu, got torch.float32 of shape (1, 6) on cpu",
    ),
    (
        {"settings": f(1, 5, **double)},
        "adamw_step_: settings must be float64 of shape (1, 6) on cpu, got torch.float64 of shape (1, 5) on cpu",
    ),
    (
        {"settings": f(1, 6, **double, device="meta")},
        "adamw_step_: settings must be float64 of shape (1, 6) on cpu, got torch.float64 of shape (1, 6) on meta",
    ),
    ({"values": f(2, 6, **ints)}, f"adamw_step_: values[0] must be {FLOATS}, got torch.int64"),
    ({"values": f(6, 2).T}, "adamw_step_: values[0] must be contiguous, got strides (1, 2)"),
    ({"grads": f(2, 5)}, "adamw_step_: grads[0] must be of shape (2, 6), got (2, 5)"),
    ({"grads": f(2, 6, **ints)}, f"adamw_step_: grads[0] must be {FLOATS}, got torch.int64"),
    ({"grads": f(6, 2).T}, "adamw_step_: grads[0] must be contiguous, got strides (1, 2)"),
    ({"grads": f(2, 6, device="meta")}, "adamw_step_: grads[0] must be on cpu as values, got meta"),
    ({"exp_avgs": f(12)}, "adamw_step_: exp_avgs[0] must be of shape (2, 6), got (12,)"),
    ({"exp_avgs": f(0)}, "adamw_step_: exp_avgs[0] must be of shape (2, 6), got (0,)"),
    ({"exp_avg_sqs": f(2, 6, **ints)}, f"adamw_step_: exp_avg_sqs[0] must be {FLOATS}, got torch.int64"),
    ({"amsgrad": True}, "adamw_step_: max_exp_avg_sqs[0] must be of shape (2, 6), got (0,)"),
    (
        {"masters": f(2, 6)},
        "adamw_step_: masters[0] must be float32 beside 16-bit values, got torch.float32 beside torch.float32",
    ),
    (
        {"masters": f(2, 6, **half), "values": f(2, 6, **half), "denses": f(4, 6, **half)},
        "adamw_step_: masters[0] must be float32 beside 16-bit values, got torch.float16 beside torch.float16",
    ),
    ({"anchors": f(3, 6)}, "adamw_step_: anchors[0] must be of shape (2, 6), got (3, 6)"),
    ({"denses": f(6, 4)}, "adamw_step_[0]: dense must be of shape (4, 6), got (6, 4)"),
    ({"denses": f(6, 4).T}, "adamw_step_[0]: dense must be contiguous, got strides (1, 4)"),
    ({"denses": f(4, 6, **half)}, "adamw_step_[0]: values must be torch.float16 as dense, got torch.float32"),
    ({"indices": torch.zeros(3, dtype=torch.int32)}, "adamw_step_[0]: values must be of shape (3, 6), got (2, 6)"),
    ({"indices": f(2)}, "adamw_step_[0]: index must be 1-D, int32 or int64, got torch.float32 of shape (2,)"),
    ({"grad_scale": f(2)}, "adamw_step_: grad_scale must be a tensor of one element, got shape (2,)"),
    ({"found_inf": f(0)}, "adamw_step_: found_inf must be a tensor of one element, got shape (0,)"),
    ({"clip": f(1, 2)}, "adamw_step_: clip must be a tensor of one element, got shape (1, 2)"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED_STEPS, ids=lambda value: value if isinstance(value, str) else "")
def test_refused_steps(changes, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        step(**dict(changes))


def test_the_call_that_the_refused_ones_vary_fits(backend):
    if torch.get_default_device().type == "cpu":
        step()


@pytest.mark.parametrize("kind", KINDS)
def test_the_fakes_check_too(kind):
    """Under `torch.compile` the torch ops are called past the public functions."""
    entries = entries_of(kind, (4, 6), "some", (2, 3)).to("meta")
    index, layout, there = entries.index, entries.layout, {"device": "meta"}
    run = torch.ops.clm_kernels
    wrong = {
        "weight_grad: x must": lambda: run.weight_grad(f(5, 4, **there), f(4, 6, **there), index, layout, torch.float32),
        "weight_grad: dtype must": lambda: run.weight_grad(f(5, 4, **there), f(5, 6, **there), index, layout, torch.int32),
        "embedding_grad: ids must": lambda: run.embedding_grad(
            f(5, 6, **there), f(5, **there), index, Layout.of("rows", (4, 6)), torch.float32
        ),
        "gather: dense must": lambda: run.gather(f(6, 4, **there), index, layout),
        "scatter_: values must": lambda: run.scatter_(f(4, 6, **there), index, layout, f(1, **there)),
        "masked_grad_: grad must": lambda: run.masked_grad_(f(1, **there), f(4, 6, **there), index, layout, 1.0),
        "adamw_step_: grads must": lambda: run.adamw_step_([f(2, 6, **there)], *[[]] * 8, [], f(1, 6, **double), False, False),
    }
    for message, call in wrong.items():
        with pytest.raises(ValueError, match=re.escape(message)):
            call()


class TestRegistry:
    def test_an_unknown_name(self):
        with (
            pytest.raises(ValueError, match=r"^clm_kernels: the backend must be auto, reference or .*, got 'nope'$"),
            ops.backend("nope"),
        ):
            pass

    def test_a_forced_implementation_ends_with_its_block(self):
        before = ops.chosen(torch.device("cpu"))
        with ops.backend("reference"):
            assert ops.chosen(torch.device("cpu")) == "reference"
            with ops.backend("auto"):
                assert ops.chosen(torch.device("cpu")) == before
            assert ops.chosen(torch.device("cpu")) == "reference"
        with pytest.raises(KeyError), ops.backend("reference"):
            raise KeyError
        assert ops.chosen(torch.device("cpu")) == before

    def test_auto_takes_the_first_that_can_run(self, monkeypatch):
        monkeypatch.setattr(registry, "_wanted", "auto")
        missing = set()
        monkeypatch.setattr(registry, "why_not", lambda name: "not built" if name in missing else None)
        for without, on_cpu, on_cuda in (
            ({}, "cpu", "cuda"),
            ({"cuda"}, "cpu", "triton"),
            ({"cuda", "cpu", "triton"}, *2 * ("reference",)),
        ):
            missing.update(without)
            monkeypatch.setitem(registry.DEVICES, "triton", "cuda")
            assert ops.chosen(torch.device("cpu")) == on_cpu
            assert ops.chosen(torch.device("cuda")) == on_cuda
            assert ops.chosen(torch.device("cuda"), "weight_grad") == "matmul"
            assert ops.chosen(torch.device("cuda"), "embedding_grad") == "reference"

    def test_what_cannot_run_says_why(self, monkeypatch):
        """By name it raises, with the reason; `auto` goes on without it."""
        monkeypatch.setitem(registry.MODULES, "broken", "clm_kernels.ops.broken")
        monkeypatch.setitem(registry.DEVICES, "broken", "cpu")
        message = r"^clm_kernels: the implementation 'broken' cannot run here: No module named 'clm_kernels.ops.broken'$"
        with pytest.raises(RuntimeError, match=message), ops.backend("broken"):
            pass
        monkeypatch.setattr(registry, "_wanted", "broken")
        with pytest.raises(RuntimeError, match=message):
            ops.gather(f(4, 6), ROWS)

    def test_tensors_on_a_device_that_it_does_not_know(self, monkeypatch):
        monkeypatch.setattr(registry, "_wanted", "cpu")
        message = r"^clm_kernels: the implementation 'cpu' runs on cpu only, got tensors on cuda$"
        with pytest.raises(RuntimeError, match=message):
            ops.chosen(torch.device("cuda:0"))

    @pytest.mark.parametrize("name", registry.MODULES)
    def test_an_implementation_has_the_ops_that_the_table_says_and_they_are_its_own(self, name):
        assert set(registry.HAS[name]) <= set(registry.OPS)
        if reason := registry.why_not(name):
            pytest.skip(reason)
        module = registry._load(name)
        assert {op for op in registry.OPS if hasattr(module, op)} == set(registry.HAS[name])
        for op in registry.HAS[name]:
            assert getattr(module, op).__module__.startswith(f"clm_kernels.ops.{name}.")

    def test_every_op_has_an_implementation_that_auto_takes(self):
        for device, table in registry.AUTO.items():
            for op, names in table.items():
                for name in names:
                    assert op in registry.HAS[name] and (registry.DEVICES[name] in (None, device) or ops.interpreted(name))
        for op in registry.OPS:
            assert callable(registry.implementation(op, torch.get_default_device()))

    @pytest.mark.parametrize("name", registry.MODULES)
    def test_by_name_an_op_is_its_own_or_refused(self, name, monkeypatch):
        monkeypatch.setitem(registry.DEVICES, name, "cpu")
        if reason := registry.why_not(name):
            pytest.skip(reason)
        for op in registry.OPS:
            with ops.backend(name):
                if op in registry.HAS[name]:
                    own = registry.implementation(op, torch.device("cpu"))
                    assert own is getattr(registry._load(name), op) or op in registry.NOT_FLOAT64.get(name, ())
                    continue
                said = op.replace("AdamWPlan", "adamw_step_")
                message = rf"^clm_kernels: the implementation '{name}' has no {said}: ask for '({name},\w+)', of which"
                with pytest.raises(RuntimeError, match=message) as raised:
                    registry.implementation(op, torch.device("cpu"))
            asked = re.match(message, str(raised.value))[1]
            with ops.backend(asked):
                assert ops.chosen(torch.device("cpu"), op) == asked.split(",")[1]

    def test_of_several_the_first_that_has_the_op_runs_it(self):
        with ops.backend("matmul,reference"):
            assert ops.chosen(torch.device("cpu"), "weight_grad") == "matmul"
            assert ops.chosen(torch.device("cuda"), "gather") == "reference"
        with pytest.raises(ValueError, match=r"got 'nope'$"), ops.backend("reference,nope"):
            pass

    @pytest.mark.skipif(not ops.interpreted("triton"), reason="needs Triton, and its interpreter for tensors on the CPU")
    @pytest.mark.parametrize("op", registry.NOT_FLOAT64["triton"])
    def test_float64_is_refused_where_it_has_no_kernel(self, op):
        dy, x = f(2, 5, 4, dtype=torch.float64), f(2, 5, 6, dtype=torch.float64)
        tokens = ops.Tokens(torch.arange(5), torch.tensor(5))
        call = {
            "weight_grad": lambda: ops.weight_grad(dy[0], x[0], ROWS),
            "embedding_grad": lambda: ops.embedding_grad(x[0], f(5, dtype=torch.int64), ROWS),
            "sensitivity": lambda: ops.sensitivity(dy, x, "rows"),
            "input_grad": lambda: ops.input_grad(dy[0], f(4, 6, dtype=torch.float64), tokens),
            "active_weight_grad": lambda: ops.weight_grad(dy[0], x[0], ROWS, tokens=tokens),
        }[op]
        message = rf"^clm_kernels: the implementation 'triton' has no {op} of float64: ask for 'triton,\w+'"
        with ops.backend("triton"), pytest.raises(RuntimeError, match=message):
            call()
        with ops.backend("triton,reference"):
            assert call().dtype == torch.float64

    def test_auto_knows_what_has_no_kernel_for_float64(self, monkeypatch):
        monkeypatch.setattr(registry, "_able", lambda name, device: name in ("triton", "matmul"))
        for op in ("input_grad", "active_weight_grad"):
            found = [registry._choose("auto", "cuda", op, float64) for float64 in (False, True)]
            assert found == ["triton", "matmul"]

    def test_cpu_does_not_lend_sensitivity(self, monkeypatch):
        monkeypatch.setattr(registry, "_wanted", "cpu")
        message = r"^clm_kernels: the implementation 'cpu' has no sensitivity: ask for 'cpu,matmul', of which the first .* or for 'auto'$"
        with pytest.raises(RuntimeError, match=message):
            ops.sensitivity(f(2, 5, 4), f(2, 5, 6), "rows")
        doctor = _python("from clm_kernels.cli import app; app(['doctor'])", CLM_KERNELS_BACKEND="cpu")
        assert "refused clm_kernels: the implementation 'cpu' has no sensitivity" in doctor.stdout

    @pytest.mark.parametrize(
        ("name", "expected"), [("reference", "reference"), ("auto", None), ("nope", "the backend must be auto")]
    )
    def test_the_environment_variable(self, name, expected):
        script = "import torch\nfrom clm_kernels import ops\nprint(ops.chosen(torch.device('cpu')))"
        run = _python(script, CLM_KERNELS_BACKEND=name)
        assert (expected or ops.chosen(torch.device("cpu"))) in run.stdout + run.stderr
        assert (run.returncode != 0) == (name == "nope")


TWICE = r"Warning only once for all operators|already a kernel registered"  # a warning of torch 2.13's, an error of 2.11's


def test_no_kernel_is_registered_twice():
    """With torch's warning turned into an error: importing every implementation passes, registering once more fails."""
    script = f"""
import warnings
warnings.filterwarnings("error", message={TWICE!r})
from clm_kernels.ops import registry, schemas
print({{name: registry.why_not(name) for name in registry.MODULES}})
schemas.library.impl("gather", lambda *args: None, "CompositeExplicitAutograd")
"""
    run = _python(script)
    assert "'reference': None" in run.stdout
    assert run.returncode != 0 and re.search(TWICE, run.stderr)


def _python(script, **environment):
    environment = {name: value for name, value in os.environ.items() if name != "CLM_KERNELS_BACKEND"} | environment
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=120)
