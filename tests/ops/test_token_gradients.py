"""Gradients of active tokens alone, on every implementation, against dense float64. Which tokens are active: test_active_tokens.py."""

import re

import pytest
import torch
from dealt_groups import deal_out
from oracles import DTYPES, KINDS, assert_same_bits, entries_of, framed, pick, spread
from tolerances import assert_close

from clm_kernels import Entries, ops
from clm_kernels.ops import Tokens, registry

NEW = ("active_tokens", "input_grad", "active_weight_grad")
WHICH = ("none", "one", "some", "all")
CASES = [  # tokens, shape of the weight, of a block: 0, 1, primes, powers of two and their neighbours
    (0, (7, 13), (7, 1)),
    (1, (1, 1), (1, 1)),
    (3, (0, 5), (1, 5)),
    (3, (5, 0), (5, 1)),
    (31, (15, 17), (5, 17)),
    (37, (64, 33), (16, 11)),
    (129, (16, 31), (4, 31)),
]
KINDS_AND_GROUPS = (*KINDS, "groups")

on_kinds = pytest.mark.parametrize("kind", KINDS_AND_GROUPS)
on_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))


def tokens_of(total, which):
    """None, the middle one, a seeded third, or all of them, as `active_tokens` would give them."""
    count = {"none": 0, "one": min(1, total), "some": -(-total // 3), "all": total}[which]
    chosen = torch.tensor([total // 2]) if which == "one" else torch.randperm(total, device="cpu")
    index = torch.full((total,), total)
    index[:count] = chosen[:count].sort().values.to(index.device)
    return Tokens(index, torch.tensor(count))


def some(kind, shape, which="some", block=None):
    """Entries of a kind, or groups that are dealt on the CPU."""
    if kind != "groups":
        return entries_of(kind, shape, which, block)
    with torch.device("cpu"):
        entries = deal_out(shape, 1 if which == "all" else 2)
    return entries.to(torch.get_default_device())


def operands(tokens, shape, dtype=torch.float32):
    """dy, x and weight, of an order that keeps sums over tokens and over output features at 1."""
    dy, x, weight = torch.randn(tokens, shape[0]), torch.randn(tokens, shape[1]), torch.randn(shape)
    return ((dy * max(1, tokens, shape[0]) ** -0.5).to(dtype), x.to(dtype), weight.to(dtype))


def only(tensor, tokens):
    """A float64 copy whose rows are zero but for the active ones, whatever stands there."""
    kept = torch.zeros_like(tensor, dtype=torch.float64)
    active = tokens.index[: tokens.count]
    kept[active] = tensor[active].double()
    return kept


def poisoned(tensor, tokens):
    """A copy with NaN in every row that is not active."""
    copy = torch.full_like(tensor, float("nan"))
    active = tokens.index[: tokens.count]
    copy[active] = tensor[active]
    return copy


def views(tensor):
    return spread(tensor), framed(tensor)[0], tensor.T.contiguous().T, tensor.flip(0).contiguous().flip(0)


class TestInputGrad:
    @on_dtypes
    def test_equals_the_dense_product_and_is_zero_elsewhere(self, backend, poison, dtype):
        for total, shape, _ in CASES:
            dy, _, weight = operands(total, shape, dtype)
            for which in WHICH:
                tokens = tokens_of(total, which)
                dx = ops.input_grad(poisoned(dy, tokens), weight, tokens)
                assert dx.dtype == dtype and dx.shape == (total, shape[1]) and dx.is_contiguous()
                assert_close(dx, only(dy, tokens) @ weight.double())
                active = torch.isin(torch.arange(total), tokens.index[: tokens.count])
                assert not dx[~active].any()

    @on_dtypes
    def test_takes_any_strides_and_offsets(self, backend, dtype):
        dy, _, weight = operands(33, (16, 31), dtype)
        tokens = tokens_of(33, "some")
        expected = only(dy, tokens) @ weight.double()
        for dy_view, weight_view in zip(views(dy), views(weight), strict=True):
            for given in ((dy_view, weight), (dy, weight_view), (dy_view, weight_view)):
                assert_close(ops.input_grad(*given, tokens), expected)
        assert_close(ops.input_grad(dy[:1].expand(33, 16), weight, tokens), only(dy[:1].expand(33, 16), tokens) @ weight.double())

    def test_the_operands_are_left_alone(self, backend):
        (dy, check_dy), (weight, check_weight) = (framed(torch.randn(shape)) for shape in ((9, 5), (5, 7)))
        before = dy.clone(), weight.clone()
        ops.input_grad(dy, weight, tokens_of(9, "some"))
        assert torch.equal(dy, before[0]) and torch.equal(weight, before[1])
        check_dy(), check_weight()

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_inf_and_nan_reach_their_own_token_only(self, backend, bad):
        dy, _, weight = operands(9, (8, 12))
        dy[3, 2] = bad
        found = ops.input_grad(dy, weight, tokens_of(9, "all")).isfinite().all(1)
        assert (~found).nonzero().flatten().tolist() == [3]


class TestWeightGrad:
    @on_kinds
    @on_dtypes
    def test_equals_the_dense_gradient_of_these_tokens(self, backend, poison, kind, dtype):
        for total, shape, block in CASES:
            if kind == "groups" and 0 in shape:
                continue
            dy, x, _ = operands(total, shape, dtype)
            for entries in (some(kind, shape, which, block) for which in ("none", "some", "all")):
                for which in WHICH:
                    tokens = tokens_of(total, which)
                    grad = ops.weight_grad(poisoned(dy, tokens), poisoned(x, tokens), entries, tokens=tokens)
                    assert grad.dtype == dtype and grad.shape == entries.compact_shape and grad.is_contiguous()
                    assert_close(grad, pick(only(dy, tokens).T @ only(x, tokens), entries))

    @pytest.mark.parametrize(("shape", "groups"), [((64, 96), 3), ((48, 80), 8), ((30, 14), 1), ((7, 13), 100)])
    @on_dtypes
    def test_dealt_groups_of_many_shapes(self, backend, poison, dtype, shape, groups):
        with torch.device("cpu"):
            entries = deal_out(shape, groups)
        entries = entries.to(torch.get_default_device())
        dy, x, _ = operands(65, shape, dtype)
        tokens = tokens_of(65, "some")
        grad = ops.weight_grad(poisoned(dy, tokens), poisoned(x, tokens), entries, tokens=tokens)
        assert_close(grad, pick(only(dy, tokens).T @ only(x, tokens), entries))

    @on_kinds
    def test_takes_any_strides_and_offsets(self, backend, kind):
        shape = (16, 32)
        dy, x, _ = operands(33, shape)
        entries, tokens = some(kind, shape, block=(4, 8)), tokens_of(33, "some")
        expected = pick(only(dy, tokens).T @ only(x, tokens), entries)
        for dy_view, x_view in zip(views(dy), views(x), strict=True):
            assert_close(ops.weight_grad(dy_view, x_view, entries, tokens=tokens), expected)

    @on_dtypes
    def test_operands_may_be_sliced_already(self, backend, dtype):
        dy, x, _ = operands(31, (15, 17), dtype)
        rows, columns = entries_of("rows", (15, 17), "some"), entries_of("columns", (15, 17), "some")
        for which in WHICH:
            tokens = tokens_of(31, which)
            expected = only(dy, tokens).T @ only(x, tokens)
            assert_close(ops.weight_grad(dy[:, rows.index], x, rows, tokens=tokens), pick(expected, rows))
            assert_close(ops.weight_grad(dy, x[:, columns.index], columns, tokens=tokens), pick(expected, columns))

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    @on_kinds
    def test_a_wider_result_is_not_rounded(self, backend, kind, dtype):
        dy, x, _ = operands(257, (32, 64), dtype)
        entries, tokens = some(kind, (32, 64), block=(8, 16)), tokens_of(257, "some")
        grad = ops.weight_grad(dy, x, entries, torch.float32, tokens)
        assert grad.dtype == torch.float32
        assert_close(grad, pick(only(dy, tokens).T @ only(x, tokens), entries))


@on_kinds
def test_tokens_may_lie_anywhere_and_what_stands_beyond_the_count_is_not_read(backend, kind):
    dy, x, weight = operands(33, (16, 32))
    entries, tokens = some(kind, (16, 32), block=(4, 8)), tokens_of(33, "some")
    beyond = tokens.index.clone()
    beyond[tokens.count :] = torch.arange(33 - int(tokens.count)) * -7
    for index in (tokens.index.repeat_interleave(2)[::2], framed(tokens.index)[0], beyond):
        same = Tokens(index, tokens.count)
        assert_same_bits(ops.input_grad(dy, weight, same), ops.input_grad(dy, weight, tokens))
        assert_same_bits(ops.weight_grad(dy, x, entries, tokens=same), ops.weight_grad(dy, x, entries, tokens=tokens))


@on_kinds
def test_the_same_bits_at_every_run(backend, two_threads, kind):
    total = 64 if ops.interpreted(backend) else 2048
    dy, x, weight = operands(total, (64, 96))
    entries, tokens = some(kind, (64, 96), block=(8, 8)), tokens_of(total, "some")

    def run():
        return ops.input_grad(dy, weight, tokens), ops.weight_grad(dy, x, entries, tokens=tokens)

    first = run()
    for _ in range(1 if ops.interpreted(backend) else 4):
        for again, before in zip(run(), first, strict=True):
            assert_same_bits(again, before)


@on_kinds
def test_opcheck(backend, kind):
    dy, x, weight = operands(9, (16, 32))
    entries, (index, count) = some(kind, (16, 32), block=(4, 8)), tokens_of(9, "some")
    torch.library.opcheck(torch.ops.clm_kernels.active_tokens.default, (dy, 0.9, False))
    torch.library.opcheck(torch.ops.clm_kernels.active_tokens.default, (dy, 0.5, True))
    torch.library.opcheck(torch.ops.clm_kernels.input_grad.default, (dy, weight, index, count))
    call = (dy, x, entries.index, entries.layout, torch.float32, index, count)
    torch.library.opcheck(torch.ops.clm_kernels.weight_grad.default, call)


@on_kinds
def test_compiles_as_one_graph(backend, kind):
    """The second call has torch trace the tokens as a symbol."""
    torch._dynamo.reset()
    entries = some(kind, (16, 32), block=(4, 8))

    def run(dy, x, weight):
        tokens = ops.active_tokens(dy * 2, 0.9)
        return tokens.count, ops.input_grad(dy * 2, weight, tokens) + 1, ops.weight_grad(dy * 2, x, entries, tokens=tokens)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    for total in (9, 14):
        arguments = operands(total, (16, 32))
        for actual, expected in zip(compiled(*arguments), run(*arguments), strict=True):
            assert_same_bits(actual, expected)


BAD = {  # of 5 tokens: index, count -> what is said of them
    "beyond": ([0, 5, 5, 5, 5], 2, "tokens must be in [0, 5) up to count, got 0 to 5"),
    "far beyond": ([0, 1 << 40, 5, 5, 5], 2, f"tokens must be in [0, 5) up to count, got 0 to {1 << 40}"),
    "negative": ([-1, 2, 5, 5, 5], 2, "tokens must be in [0, 5) up to count, got -1 to 2"),
    "descending": ([3, 1, 5, 5, 5], 2, "tokens must be ascending up to count, got another order"),
    "repeated": ([1, 1, 5, 5, 5], 2, "tokens must be ascending up to count, got another order"),
    "count beyond T": ([0, 1, 2, 3, 4], 6, "count must be in [0, 5], got 6"),
    "count below 0": ([0, 1, 2, 3, 4], -1, "count must be in [0, 5], got -1"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_tokens_never_write_out_of_bounds(backend, case):
    """On the CPU they are refused; a GPU's host reads none, and its kernels must leave them out."""
    index, count, message = BAD[case]
    tokens = Tokens(torch.tensor(index), torch.tensor(count))
    dy, x, weight = (framed(torch.randn(shape)) for shape in ((5, 4), (5, 6), (4, 6)))
    entries = entries_of("rows", (4, 6), "some")
    calls = {
        "input_grad": lambda: ops.input_grad(dy[0], weight[0], tokens),
        "weight_grad": lambda: ops.weight_grad(dy[0], x[0], entries, tokens=tokens),
    }
    for op, call in calls.items():
        if torch.get_default_device().type == "cpu":
            with pytest.raises(ValueError, match=f"^{re.escape(f'{op}: {message}')}$"):
                call()
        elif backend == "triton":
            call()
    for _, check_frame in (dy, x, weight):
        check_frame()


def f(*shape, dtype=torch.float32, device="cpu"):
    return torch.zeros(shape, dtype=dtype, device=device)


ROWS = Entries.of("rows", [0, 2], (4, 6))
NO_TOKENS = Tokens(f(5, dtype=torch.int64), f(dtype=torch.int64))
FLOATS = "float32, float64, bfloat16 or float16"
INTS = {"dtype": torch.int64}


def given(index=NO_TOKENS.index, count=NO_TOKENS.count):
    return Tokens(index, count)


REFUSED = [
    (lambda: ops.active_tokens(f(5, 4)), "active_tokens: energy and share must be given one without the other, got none"),
    (lambda: ops.active_tokens(f(5, 4), 0.5, share=0.5), "active_tokens: energy and share must be given one without the other, got both"),
    (lambda: ops.active_tokens(f(5, 4), 0.0), "active_tokens: energy must be in (0, 1], got 0.0"),
    (lambda: ops.active_tokens(f(5, 4), 1.5), "active_tokens: energy must be in (0, 1], got 1.5"),
    (lambda: ops.active_tokens(f(5, 4), float("nan")), "active_tokens: energy must be in (0, 1], got nan"),
    (lambda: ops.active_tokens(f(5, 4), share=-0.5), "active_tokens: share must be in (0, 1], got -0.5"),
    (lambda: ops.active_tokens(f(2, 5, 4), 0.5), "active_tokens: dy must be of shape (T, out), got (2, 5, 4)"),
    (lambda: ops.active_tokens(f(5, 4, **INTS), 0.5), f"active_tokens: dy must be {FLOATS}, got torch.int64"),
    (lambda: ops.input_grad(f(5, 4, **INTS), f(4, 6), given()), f"input_grad: dy must be {FLOATS}, got torch.int64"),
    (
        lambda: ops.input_grad(f(5, 4), f(4, 6, dtype=torch.float16), given()),
        "input_grad: weight must be torch.float32 as dy, got torch.float16",
    ),
    (lambda: ops.input_grad(f(5, 4), f(4, 6, device="meta"), given()), "input_grad: weight must be on cpu as dy, got meta"),
    (
        lambda: ops.input_grad(f(5, 4), f(6, 4), given()),
        "input_grad: dy must be of shape (T, out) beside weight (out, in), got (5, 4) beside (6, 4)",
    ),
    (
        lambda: ops.input_grad(f(1, 5, 4), f(4, 6), given()),
        "input_grad: dy must be of shape (T, out) beside weight (out, in), got (1, 5, 4) beside (4, 6)",
    ),
    (lambda: ops.input_grad(f(5, 4), f(4, 6), given(f(4, **INTS))), "input_grad: tokens must be of shape (5,), got (4,)"),
    (lambda: ops.input_grad(f(5, 4), f(4, 6), given(f(5))), "input_grad: tokens must be int64, got torch.float32"),
    (lambda: ops.input_grad(f(5, 4), f(4, 6), given(count=f(1, **INTS))), "input_grad: count must be of shape (), got (1,)"),
    (lambda: ops.input_grad(f(5, 4), f(4, 6), given(count=f())), "input_grad: count must be int64, got torch.float32"),
    (
        lambda: ops.input_grad(f(5, 4), f(4, 6), given(count=f(device="meta", **INTS))),
        "input_grad: count must be on cpu as dy, got meta",
    ),
    (
        lambda: ops.weight_grad(f(5, 4), f(5, 6), ROWS, tokens=given(f(5, device="meta", **INTS))),
        "weight_grad: tokens must be on cpu as dy, got meta",
    ),
    (
        lambda: ops.weight_grad(f(5, 4), f(5, 6), ROWS, tokens=given(f(6, **INTS))),
        "weight_grad: tokens must be of shape (5,), got (6,)",
    ),
    (
        lambda: torch.ops.clm_kernels.weight_grad(f(5, 4), f(5, 6), ROWS.index, ROWS.layout, torch.float32, NO_TOKENS.index),
        "weight_grad: tokens and count must be given together, got one of them",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_refused_arguments(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()


@pytest.mark.parametrize("op", NEW)
@pytest.mark.parametrize("name", registry.MODULES)
def test_an_implementation_has_the_op_or_says_that_it_has_not(name, op):
    if registry.DEVICES[name] not in (None, "cpu") or ops.why_not(name):
        pytest.skip(ops.why_not(name) or "not for tensors on the CPU")
    dy, x, weight = operands(5, (4, 6))
    tokens = ops.active_tokens(dy, 0.9)
    calls = {
        "active_tokens": lambda: ops.active_tokens(dy, 0.9).index,
        "input_grad": lambda: ops.input_grad(dy, weight, tokens),
        "active_weight_grad": lambda: ops.weight_grad(dy, x, ROWS, tokens=tokens),
    }
    with ops.backend(name):
        if op in registry.HAS[name]:
            assert bool(calls[op]().isfinite().all())
        else:
            with pytest.raises(RuntimeError, match=f"the implementation '{name}' has no {op}"):
                calls[op]()
