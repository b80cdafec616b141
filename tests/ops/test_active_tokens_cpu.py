"""What the C++ kernels of active tokens have of their own: instruction sets, threads, sizes, and the rule that calls them."""

import pytest
import torch
from oracles import DTYPES, KINDS, assert_same_bits, entries_of, framed, pick
from tolerances import assert_close

from clm_kernels import Entries, ops
from clm_kernels.ops import reference, registry
from clm_kernels.ops.grouped import groups_of

if reason := ops.why_not("cpu"):
    pytest.skip(reason, allow_module_level=True)

from clm_kernels import _cpu
from clm_kernels.ops import cpu

SETS = ("baseline", "avx2", "avx512")
SETS = SETS[: SETS.index(_cpu.instructions()) + 1]
# Around tiles of 4 and 8 tokens, groups of 128 tokens, panels of 96 columns and blocks of 128 summands.
SIZES = [(0, 5, 3), (1, 1, 1), (9, 130, 97), (140, 31, 200), (300, 257, 16), (200, 130, 400), (5, 0, 4), (5, 4, 0)]

on_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))


@pytest.fixture(params=SETS)
def instructions(request):
    _cpu.set_instructions(request.param)
    yield request.param
    _cpu.set_instructions("auto")


def on_threads(run, *args):
    """What it gives on one thread, after the same on several."""
    found = []
    try:
        for threads in (7, 3, 2, 1):
            torch.set_num_threads(threads)
            found.append(run(*args))
    finally:
        torch.set_num_threads(1)
    *others, last = found
    for other in others:
        for pair in zip(other, last, strict=True) if isinstance(last, tuple) else [(other, last)]:
            assert_same_bits(*pair)
    return last


def tokens_of(active):
    index = torch.full(active.shape, len(active))
    index[: active.sum()] = active.nonzero().flatten()
    return index, active.sum()


def choices(tokens):
    """None, some and all of the tokens."""
    return [torch.rand(tokens) < share for share in (0, 0.3, 1)]


def dealt_groups(shape, block, groups):
    rows, columns = (torch.randperm(size // step) % groups for size, step in zip(shape, block, strict=True))
    return Entries.of("blocks", (rows[:, None] == columns).flatten().nonzero().flatten(), shape, block)


def gradients(tokens, columns, dtype):
    """Of norms that spread, with ties, with rows of zeros; at odd addresses."""
    dy = torch.randn(tokens, columns + 3) * torch.rand(tokens, 1) ** 8
    yield dy.to(dtype)[:, 2:-1]
    dy[::3] = dy[:1].clone()
    dy[1::5] = 0
    yield dy.to(dtype)[:, 2:-1]
    yield dy.sign().to(dtype)[:, :-3]
    yield torch.zeros(tokens, columns, dtype=dtype)


@on_dtypes
@pytest.mark.parametrize("counted", [False, True])
def test_active_tokens_are_the_reference_s(instructions, dtype, counted):
    for tokens, columns in ((0, 4), (1, 1), (2, 15), (130, 16), (257, 33), (400, 1000)):
        for dy in gradients(tokens, columns, dtype):
            for part in (1e-9, 0.2, 0.5, 0.99, 1.0):
                index, count = on_threads(cpu.active_tokens, dy, part, counted)
                expected, expected_count = reference.active_tokens(dy, part, counted)
                assert torch.equal(index, expected)
                assert torch.equal(count, expected_count)


@pytest.mark.parametrize("wrong", [float("inf"), float("nan")])
def test_what_is_not_finite_makes_every_token_active(instructions, wrong):
    dy = torch.ones(7, 20)
    dy[5, 17] = wrong
    for implementation in (cpu, reference):
        for counted in (False, True):
            index, count = implementation.active_tokens(dy, 0.3, counted)
            assert count == 7
            assert index.tolist() == list(range(7))


@on_dtypes
def test_input_grad(instructions, dtype, monkeypatch):
    checks, new_empty = [], torch.Tensor.new_empty

    def make(like, *args):
        view, check = framed(new_empty(like, *args).fill_(float("nan")))
        checks.append(check)
        return view

    monkeypatch.setattr(torch.Tensor, "new_empty", make)
    for tokens, sums, columns in SIZES:
        dy = (torch.randn(tokens, sums + 3) * max(1, sums) ** -0.5).to(dtype)[:, 2:-1]
        weight = torch.randn(sums, columns + 1).to(dtype)[:, 1:]
        for active in choices(tokens):
            dx = on_threads(cpu.input_grad, dy, weight, *tokens_of(active))
            assert dx.dtype == dtype
            assert_close(dx[active], dy[active].double() @ weight.double())
            assert bool((dx[~active] == 0).all())
            assert_close(cpu.input_grad(dy, weight.T.contiguous().T, *tokens_of(active)), dx.double())
    for check in checks:
        check()


@on_dtypes
@pytest.mark.parametrize(("kind", "block"), [*((kind, (48, 16)) for kind in KINDS), ("blocks", (4, 2))])
def test_weight_grad_has_the_bits_of_gathered_operands(instructions, kind, block, dtype):
    shape = (96, 208)
    for tokens in (0, 1, 20, 300):
        dy, x = (torch.randn(tokens, size + 3).to(dtype)[:, 2:-1] for size in shape)
        for which in ("none", "some", "all"):
            entries = entries_of(kind, shape, which, block)
            if groups_of(entries.index, entries.layout) is not None:
                continue  # which have a kernel of their own
            for active in choices(tokens):
                to = entries.index, entries.layout, dtype
                grad = on_threads(cpu.active_weight_grad, dy, x, *to, *tokens_of(active))
                assert_same_bits(grad, cpu.weight_grad(dy[active], x[active], *to))


@on_dtypes
@pytest.mark.parametrize(
    ("shape", "count", "block"),
    [((96, 64), 3, (8, 8)), ((72, 640), 4, (3, 5)), ((640, 48), 2, (16, 8)), ((600, 12), 2, (150, 3)), ((8, 400), 2, (2, 100))],
)
def test_weight_grad_of_dealt_groups(instructions, shape, count, block, dtype):
    """Groups of more than 128 rows and 96 columns too, and blocks of more."""
    entries = dealt_groups(shape, block, count)
    assert groups_of(entries.index, entries.layout) is not None
    for tokens in (0, 1, 300):
        dy, x = ((torch.randn(tokens, size + 3) * max(1, tokens) ** -0.25).to(dtype)[:, 2:-1] for size in shape)
        for active in choices(tokens):
            grad = on_threads(cpu.active_weight_grad, dy, x, entries.index, entries.layout, dtype, *tokens_of(active))
            assert_close(grad, pick(dy[active].double().T @ x[active].double(), entries))


@pytest.mark.parametrize(
    ("index", "count", "message"),
    [
        ([0, 2, 1, 4], 3, r"tokens must be ascending in \[0, 4\), got 1 at 2"),
        ([0, 0, 4, 4], 2, "got 0 at 1"),
        ([0, 4, 4, 4], 2, "got 4 at 1"),
        ([-1, 4, 4, 4], 1, "got -1 at 0"),
        ([0, 1, 2, 3], 5, r"count must be in \[0, 4\], got 5"),
        ([0, 1, 2, 3], -1, "got -1"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_that_cannot_be_are_refused(kind, index, count, message):
    """By the kernels too, whoever calls them: the ops look before they do."""
    dy, x, tokens = torch.randn(4, 6), torch.randn(4, 8), ops.Tokens(torch.tensor(index), torch.tensor(count))
    entries = entries_of(kind, (6, 8), "some", (2, 2))
    with pytest.raises(ValueError, match="input_grad: .*" + message):
        cpu.input_grad(dy, torch.randn(6, 8), *tokens)
    with pytest.raises(ValueError, match="weight_grad: .*" + message):
        cpu.active_weight_grad(dy, x, entries.index, entries.layout, torch.float32, *tokens)


@pytest.mark.parametrize("products", [False, True])
def test_the_rule_of_input_grad(products):
    choose = registry._input_grad(lambda *_: "kernel", lambda *_: "library", products)
    few, many = torch.tensor(50), torch.tensor(51)
    for dtype in DTYPES:
        dy, weight = torch.empty(64, 100, dtype=dtype), torch.empty(100, 1000, dtype=dtype)
        assert choose(dy, weight, None, few) == "kernel"
        assert choose(dy, weight, None, many) == ("library" if products and dtype == torch.bfloat16 else "kernel")
        assert choose(dy, torch.empty(1000, 100, dtype=dtype).T, None, few) == "library"


def test_the_rule_of_weight_grad_counts_active_tokens():
    entries = entries_of("columns", (30, 20), "some")
    dy, x = torch.empty(100, 30), torch.empty(100, 20)
    key, bands = (entries.layout[0], torch.float32), ((10 * 600, 1, lambda *_: "few"), (1e9, 1, lambda *_: "many"))
    choose = registry._by_call({key: bands}, {key: None}, {}, None)
    given = dy, x, entries.index, entries.layout, torch.float32
    assert choose(*given) == "many"
    assert [choose(*given, None, torch.tensor(count)) for count in (10, 11)] == ["few", "many"]


def test_auto_runs_the_kernels():
    assert [ops.chosen(torch.device("cpu"), op) for op in ("active_tokens", "input_grad", "active_weight_grad")] == ["cpu"] * 3
