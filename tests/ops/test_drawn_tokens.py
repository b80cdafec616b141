"""`drawn_tokens` on every implementation, against a brute force: the same tokens everywhere, and no bias."""

import itertools
import math

import pytest
import torch
from active_tokens import drawn_by_brute_force
from oracles import DTYPES

from clm_kernels import ops
from clm_kernels.ops import reference
from clm_kernels.ops.tokens import Drawn, Tokens

SIZES = ((0, 5), (1, 1), (1, 7), (2, 3), (31, 1), (37, 16), (64, 33), (129, 8), (5, 0))
NOISES, STARTS = (0.0, 1e-9, 0.03, 0.3, 0.999), (0.0, 0.37, 1 - 2**-53)
RUNS = {"triton": 25}  # interpreted
BAD = (float("nan"), float("inf"), float("-inf"))


def number(start):
    return torch.tensor(start, dtype=torch.float64)


def uneven(tokens, out, dtype=torch.float32):
    """Rows whose norms lie some powers of ten apart; every fourth is zero."""
    dy = torch.randn(tokens, out) * 10 ** torch.linspace(0, -3, max(1, tokens))[torch.randperm(tokens, device="cpu")][:, None]
    dy[1::4] = 0
    return dy.to(dtype)


def assert_drawn(found, rows, weights, tokens):
    index, count, weight = found
    assert (
        index.dtype == count.dtype == torch.int64 and weight.dtype == torch.float32 and weight.shape == index.shape == (tokens,)
    )
    assert index.tolist() == rows + [tokens] * (tokens - len(rows)) and count.item() == len(rows)
    assert weight.tolist() == pytest.approx(weights, rel=1e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
def test_the_same_tokens_as_by_brute_force(backend, dtype):
    for turn, (tokens, out) in enumerate(SIZES):
        dy, pairs = uneven(tokens, out, dtype), list(itertools.product(NOISES, STARTS))
        for noise, start in pairs[(turn + 2 * DTYPES.index(dtype)) % 8 :: 8] if ops.interpreted(backend) else pairs:
            assert_drawn(ops.drawn_tokens(dy, noise, number(start)), *drawn_by_brute_force(dy, noise, start), tokens)


def test_without_bias_over_all_starts(backend):
    """Starts at even distances: each token is drawn in the part of them that is its chance, give or take one."""
    dy, runs = torch.randn(40, 6) * (0.1 + torch.rand(40, 1)), RUNS.get(backend, 500)
    dy[::5] = 0
    weights = torch.stack([ops.drawn_tokens(dy, 0.3, number(i / runs)).weight for i in range(runs)])
    there = dy.any(1)
    heaviest = weights.max(0).values
    assert (heaviest[there] > 1).any() and (heaviest[there] == 1).any() and not weights[:, ~there].any()
    assert ((weights.mean(0) - 1).abs() <= heaviest * 1.1 / runs + 1e-6)[there].all()
    counts = (weights > 0).sum(1)
    assert counts.max() - counts.min() <= 1 < there.sum() - counts.max()


@pytest.mark.parametrize("noise", [0.01, 0.1, 0.5])
def test_the_error_is_what_was_asked_for(backend, noise):
    """Each row's expected squared error is its squared norm times (1 / chance - 1)."""
    dy, chance, runs = torch.randn(40, 8) * (0.1 + torch.rand(40, 1)), torch.zeros(40), 20
    for i in range(runs):  # until each was drawn once
        weight = ops.drawn_tokens(dy, noise, number(i / runs)).weight
        chance = torch.where(weight > 0, 1 / weight, chance)
    assert chance.all()
    squares = dy.square().sum(1)
    error = (squares * (1 / chance - 1)).sum() / squares.sum()
    assert noise * 0.98 <= error <= noise * 1.001


def test_without_noise_all_but_zeros_are_active(backend):
    dy = uneven(30, 4)
    index, count, weight = ops.drawn_tokens(dy, 0.0)
    assert index[:count].tolist() == dy.any(1).nonzero().flatten().tolist()
    assert torch.equal(weight, dy.any(1).float())
    assert int(ops.drawn_tokens(torch.zeros(7, 3), 0.5).count) == 0


@pytest.mark.parametrize("bad", BAD)
def test_what_is_not_finite_takes_every_token(backend, bad):
    dy = uneven(9, 3)
    dy[4, 1] = bad
    index, count, weight = ops.drawn_tokens(dy, 0.5)
    assert index.tolist() == list(range(9)) and int(count) == 9 and (weight == 1).all()


def test_equal_rows_are_drawn_at_even_distances(backend):
    index, count, weight = ops.drawn_tokens(torch.ones(12, 2), 0.9, number(0.0))
    assert 5 < int(count) < 8 and weight[index[:count]].unique().numel() == 1
    assert index[:count].diff().max() <= 2


def test_strided_rows(backend):
    dy = torch.randn(2, 20, 6)
    for view in (dy[1], dy[0].T, dy[1, ::3], dy[0, :, ::2]):
        start = number(0.4)
        for found, expected in zip(ops.drawn_tokens(view, 0.3, start), ops.drawn_tokens(view.contiguous(), 0.3, start)):
            assert torch.equal(found, expected)


def test_weighed_rows_add_up_to_the_gradient_in_the_mean(backend):
    dy, x, weight = uneven(24, 5), torch.randn(24, 4), torch.randn(5, 3)
    runs, dx, dw = RUNS.get(backend, 400), 0.0, 0.0
    near = 8 / runs  # each token's mean weight is off by its weight / runs at most
    for i in range(runs):
        drawn = ops.drawn_tokens(dy, 0.4, number(i / runs))
        assert int(drawn.count) < dy.any(1).sum()
        given = ops.weighed(dy, drawn)
        dx = dx + ops.input_grad(given, weight, drawn.tokens) / runs
        active = drawn.index[: drawn.count]
        dw = dw + given[active].T @ x[active] / runs
    torch.testing.assert_close(dx, dy @ weight, rtol=near, atol=near)
    torch.testing.assert_close(dw, dy.T @ x, rtol=near, atol=2 * near)


def test_a_start_by_chance_is_another_one_each_time():
    dy = torch.rand(60, 3)
    torch.manual_seed(0)
    first, again = ops.drawn_tokens(dy, 0.3), ops.drawn_tokens(dy, 0.3)
    assert isinstance(first, Drawn) and isinstance(first.tokens, Tokens) and not torch.equal(first.index, again.index)
    torch.manual_seed(0)
    assert torch.equal(ops.drawn_tokens(dy, 0.3).index, first.index)


def test_opcheck_and_compile(backend):
    torch._dynamo.reset()
    dy = uneven(9, 4)
    torch.library.opcheck(torch.ops.clm_kernels.drawn_tokens.default, (dy, 0.3, number(0.2)))
    run = torch.compile(
        lambda dy, start: ops.weighed(dy * 2, ops.drawn_tokens(dy * 2, 0.3, start)).sum(0), fullgraph=True, backend="eager"
    )
    expected = (dy * 2 * reference.drawn_tokens(dy * 2, 0.3, number(0.2))[2][:, None]).sum(0)
    torch.testing.assert_close(run(dy, number(0.2)), expected)


@pytest.mark.parametrize(("call", "message"), [
    (lambda dy: ops.drawn_tokens(dy, 1.0), r"drawn_tokens: noise must be in \[0, 1\), got 1.0"),
    (lambda dy: ops.drawn_tokens(dy, -0.1), r"drawn_tokens: noise must be in \[0, 1\), got -0.1"),
    (lambda dy: ops.drawn_tokens(dy, math.nan), r"drawn_tokens: noise must be in \[0, 1\), got nan"),
    (lambda dy: ops.drawn_tokens(dy[0], 0.1), r"drawn_tokens: dy must be of shape \(T, out\), got \(4,\)"),
    (lambda dy: ops.drawn_tokens(dy.long(), 0.1), "drawn_tokens: dy must be .*, got torch.int64"),
    (lambda dy: ops.drawn_tokens(dy, 0.1, torch.zeros(1)), r"drawn_tokens: start must be a number in float64 on cpu, got \(1,\)"),
    (lambda dy: ops.drawn_tokens(dy, 0.1, number(1.0)), r"drawn_tokens: start must be in \[0, 1\), got 1.0"),
    (lambda dy: ops.drawn_tokens(dy, 0.1, number(-0.5)), r"drawn_tokens: start must be in \[0, 1\), got -0.5"),
])  # fmt: skip
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.ones(5, 4))
