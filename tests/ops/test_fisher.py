"""`ops.sensitivity` on every implementation against dense gradients, an example at a time. Of a model: test_sensitivity.py."""

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import DTYPES, assert_same_bits, framed, spread
from tolerances import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from clm_kernels import ops
from clm_kernels.ops import registry

DIM = {"rows": 1, "columns": 0}  # the dim of a dense gradient that a unit's squared norm sums over
CASES = [  # examples, tokens, out, in: 0, 1, primes, powers of two and their neighbours
    (0, 3, 4, 5),
    (2, 0, 4, 5),
    (2, 3, 0, 5),
    (2, 3, 5, 0),
    (1, 1, 1, 1),
    (3, 7, 13, 5),
    (2, 16, 31, 33),
    (1, 63, 64, 17),
    (2, 64, 65, 127),
    (1, 65, 129, 16),
    (3, 131, 128, 37),  # two whole tiles of tokens and a bit, in Triton
]

on_kinds = pytest.mark.parametrize("kind", DIM)
on_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))


def operands(examples, tokens, out, inner, dtype=torch.float32):
    """dy and x, such that scores are of order 1."""
    scale = max(1, examples * tokens * max(out, inner)) ** -0.5
    return (torch.randn(examples, tokens, out) * scale).to(dtype), torch.randn(examples, tokens, inner).to(dtype)


def wide(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


def dense(dy, x, kind, weights=None):
    scores = torch.zeros((dy if kind == "rows" else x).shape[2], dtype=torch.float64)
    for i in range(dy.shape[0]):
        dy_i = dy[i].double() if weights is None else dy[i].double() * weights[i].double()[:, None]
        scores += (dy_i.T @ x[i].double()).square().sum(DIM[kind])
    return scores


@on_kinds
@on_dtypes
def test_equals_the_dense_gradients(backend, poison, kind, dtype):
    for sizes in CASES:
        dy, x = operands(*sizes, dtype)
        weights = torch.rand(sizes[:2])
        for weighted in ((), (weights,)):
            scores = ops.sensitivity(dy, x, kind, *weighted)
            assert scores.dtype == wide(dtype)
            assert scores.shape == (sizes[2 if kind == "rows" else 3],) and scores.is_contiguous()
            assert_close(scores, dense(dy, x, kind, *weighted))


@on_dtypes
def test_a_sum_of_nothing_is_zero(backend, poison, dtype):
    dy, x = operands(2, 17, 5, 0, dtype)
    assert_same_bits(ops.sensitivity(dy, x, "rows"), torch.zeros(5, dtype=wide(dtype)))
    assert ops.sensitivity(dy, x, "columns").shape == (0,)


@on_kinds
@on_dtypes
@pytest.mark.parametrize("weight_dtype", [torch.float32, torch.float64, torch.bfloat16, torch.bool, torch.int64])
def test_weights_of_any_real_dtype(backend, kind, dtype, weight_dtype):
    dy, x = operands(3, 7, 5, 4, dtype)
    weights = (torch.randn(3, 7) * 2).to(weight_dtype)  # negative ones and zeros among them
    assert_close(ops.sensitivity(dy, x, kind, weights), dense(dy, x, kind, weights))


@on_kinds
@on_dtypes
def test_takes_any_strides_and_offsets_and_writes_none_of_them(backend, kind, dtype):
    dy, x = operands(2, 65, 33, 17, dtype)
    weights = torch.rand(2, 65)
    expected = dense(dy, x, kind, weights)
    changes = (spread, lambda t: t.mT.contiguous().mT, lambda t: t.transpose(0, 1).contiguous().transpose(0, 1))
    for change in changes:
        assert_close(ops.sensitivity(change(dy), change(x), kind, change(weights) if change is spread else weights), expected)
    arguments, checks = zip(*map(framed, (dy, x, weights)), strict=True)
    assert_close(ops.sensitivity(*arguments[:2], kind, arguments[2]), expected)
    for argument, original, check in zip(arguments, (dy, x, weights), checks, strict=True):
        assert_same_bits(argument, original)
        check()
    once = (dy[:1].expand(3, -1, -1), x[:1].expand(3, -1, -1))
    assert_close(ops.sensitivity(*once, kind), 3 * dense(dy[:1], x[:1], kind))


@on_dtypes
def test_inf_and_nan_reach_their_own_units_only(backend, dtype):
    dy, x = operands(2, 9, 8, 12, dtype)
    dy[0, 3, 2], dy[1, 5, 7] = float("nan"), float("inf")
    assert (~ops.sensitivity(dy, x, "rows").isfinite()).nonzero().flatten().tolist() == [2, 7]
    assert not ops.sensitivity(dy, x, "columns").isfinite().any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@on_kinds
def test_sums_and_gram_matrices_are_not_rounded_to_the_operands(backend, kind, dtype):
    dy, x = torch.full((1, 300, 2), 0.1, dtype=dtype), torch.full((1, 300, 2), 300.0, dtype=dtype)  # 300 squared overflows
    assert_close(ops.sensitivity(dy, x, kind), dense(dy, x, kind))


@on_kinds
@on_dtypes
def test_autocast_does_not_round_it(backend, kind, dtype):
    dy, x = operands(2, 17, 5, 4, dtype)
    expected = ops.sensitivity(dy, x, kind)
    with torch.autocast(dy.device.type, dtype=torch.bfloat16):
        assert_same_bits(ops.sensitivity(dy, x, kind), expected)


@on_kinds
def test_makes_no_dense_gradient(backend, kind):
    class Made(TorchDispatchMode):
        shapes = set()

        def __torch_dispatch__(self, op, types, args=(), kwargs=None):
            result = op(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                self.shapes.add(result.shape[-2:])
            return result

    dy, x = operands(2, 5, 11, 7)
    run = registry.implementation("sensitivity", torch.get_default_device())
    with Made() as made:
        run(dy, x, kind)
    assert (5, 5) in made.shapes and not made.shapes & {(11, 7), (7, 11)}


@on_kinds
def test_is_a_measurement_that_autograd_does_not_follow(backend, kind):
    dy, x = (operand.requires_grad_() for operand in operands(2, 5, 3, 4))
    scores = ops.sensitivity(dy, x, kind, torch.ones(2, 5, requires_grad=True))
    assert not scores.requires_grad


@on_kinds
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_opcheck(backend, kind, dtype):
    """Of a type that the result has too, and of one narrower than it."""
    dy, x = operands(2, 5, 3, 4, dtype)
    for weights in (None, torch.rand(2, 5), torch.rand(2, 5) > 0.5):
        torch.library.opcheck(torch.ops.clm_kernels.sensitivity.default, (dy, x, kind, weights))


@pytest.mark.parametrize(("kind", "compiler"), [*((kind, "aot_eager") for kind in DIM), ("rows", "inductor")])
def test_compiles_as_one_graph(backend, kind, compiler):
    """The second call has torch trace the examples and tokens as symbols."""
    torch._dynamo.reset()

    def run(dy, x, weights):
        return ops.sensitivity(dy * 2, x, kind, weights) + ops.sensitivity(dy, x, kind)

    compiled = torch.compile(run, fullgraph=True, backend=compiler)
    for examples, tokens in ((2, 5), (3, 9)):
        arguments = *operands(examples, tokens, 8, 6), torch.rand(examples, tokens)
        assert_same_bits(compiled(*arguments), run(*arguments))


@on_kinds
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_bits_at_every_run(backend, two_threads, kind, dtype):
    examples, tokens, runs = (2, 70, 2) if ops.interpreted(backend) else (4, 512, 8)
    dy, x = operands(examples, tokens, 96, 160, dtype)
    first = ops.sensitivity(dy, x, kind)
    for _ in range(runs):
        assert_same_bits(ops.sensitivity(dy, x, kind), first)


@given(
    sizes=st.tuples(st.integers(0, 3), st.integers(0, 70), st.integers(0, 20), st.integers(0, 20)),
    seed=st.integers(0, 2**16), dtype=st.sampled_from(DTYPES), weighted=st.booleans(),
)  # fmt: skip
@on_kinds
def test_random_sizes(backend, kind, sizes, seed, dtype, weighted):
    torch.manual_seed(seed)
    dy, x = operands(*sizes, dtype)
    weights = torch.rand(sizes[:2]) if weighted else None
    assert_close(ops.sensitivity(dy, x, kind, weights), dense(dy, x, kind, weights))


def test_auto_takes_the_vendors_products(monkeypatch):
    """With or without a C++ build; no Triton product before one is measured."""
    monkeypatch.setattr(registry, "_wanted", "auto")
    for device in ("cpu", "cuda"):
        assert ops.chosen(torch.device(device), "sensitivity") == "matmul"
    dy, x = operands(2, 65, 33, 17)
    with ops.backend("matmul"):
        expected = ops.sensitivity(dy, x, "rows")
    assert_same_bits(ops.sensitivity(dy, x, "rows"), expected)


def f(*shape, dtype=torch.float32, device="cpu"):
    return torch.zeros(shape, dtype=dtype, device=device)


FLOATS = "float32, float64, bfloat16 or float16"
REFUSED = [
    ((f(2, 5, 4), f(2, 5, 6), "blocks"), "kind must be rows or columns, got 'blocks'"),
    ((f(2, 5, 4, dtype=torch.int64), f(2, 5, 6), "rows"), f"dy must be {FLOATS}, got torch.int64"),
    ((f(5, 4), f(5, 6), "rows"), "dy must be of shape (B, T, out), got (5, 4)"),
    ((f(2, 5, 4), f(2, 5, 6, dtype=torch.float16), "rows"), "x must be torch.float32 as dy, got torch.float16"),
    ((f(2, 5, 4), f(2, 5, 6, device="meta"), "rows"), "x must be on cpu as dy, got meta"),
    ((f(2, 5, 4), f(5, 6), "rows"), "x must be of shape (2, 5, in), got (5, 6)"),
    ((f(2, 5, 4), f(3, 5, 6), "rows"), "x must be of shape (2, 5, in), got (3, 5, 6)"),
    ((f(2, 5, 4), f(2, 6, 6), "columns"), "x must be of shape (2, 5, in), got (2, 6, 6)"),
    ((f(2, 5, 4), f(2, 5, 6), "rows", f(5)), "weights must be of shape (2, 5), got (5,)"),
    ((f(2, 5, 4), f(2, 5, 6), "rows", f(2, 5, 1)), "weights must be of shape (2, 5), got (2, 5, 1)"),
    ((f(2, 5, 4), f(2, 5, 6), "rows", f(2, 5, device="meta")), "weights must be on cpu as dy, got meta"),
    ((f(2, 5, 4), f(2, 5, 6), "rows", f(2, 5, dtype=torch.complex64)), "weights must be real, got torch.complex64"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_refused_arguments(arguments, message):
    with pytest.raises(ValueError, match=f"^sensitivity: {re.escape(message)}$"):
        ops.sensitivity(*arguments)


def test_the_fake_checks_too():
    """Under `torch.compile` the torch op is called past the public function."""
    with pytest.raises(ValueError, match=r"^sensitivity: x must be of shape \(2, 5, in\), got \(2, 4, 6\)$"):
        torch.ops.clm_kernels.sensitivity(f(2, 5, 4, device="meta"), f(2, 4, 6, device="meta"), "rows")
