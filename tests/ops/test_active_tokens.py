"""`active_tokens` on every implementation, against a brute force: the same tokens everywhere. More in test_token_gradients.py."""

import itertools

import pytest
import torch
from active_tokens import WHOLE, brute_force
from hypothesis import given
from hypothesis import strategies as st
from oracles import DTYPES, framed, spread

from clm_kernels import ops

ENERGIES = (1e-300, 1e-9, 0.25, 0.5, 0.9, 0.99, 0.999, 1.0)
SIZES = ((0, 5), (1, 1), (1, 7), (2, 3), (31, 1), (37, 16), (64, 33), (129, 8), (5, 0))
BAD = (float("nan"), float("inf"), float("-inf"))

on_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))


def assert_active(dy, expected, **part):
    index, count = ops.active_tokens(dy, **part)
    assert index.shape == dy.shape[:1] and count.shape == () and index.dtype == count.dtype == torch.int64
    assert index.device == count.device == dy.device and index.is_contiguous()
    assert index.tolist() == expected + [len(dy)] * (len(dy) - len(expected)) and count.item() == len(expected)


def uneven(tokens, out, dtype=torch.float32):
    """Rows whose norms lie some powers of ten apart; every fourth is zero."""
    dy = torch.randn(tokens, out) * 10 ** torch.linspace(0, -3, max(1, tokens))[torch.randperm(tokens, device="cpu")][:, None]
    dy[1::4] = 0
    return dy.to(dtype)


def sizes_and_parts(backend, dtype, parts):
    """All of them with all; where an interpreter runs, which chooses by float64 norms, in all dtypes together."""
    for number, size in enumerate(SIZES):
        yield size, parts[(number + DTYPES.index(dtype)) % 4 :: 4] if ops.interpreted(backend) else parts


@on_dtypes
def test_the_least_set_that_holds_the_energy(backend, dtype):
    for (tokens, out), energies in sizes_and_parts(backend, dtype, ENERGIES):
        dy = uneven(tokens, out, dtype)
        for energy in energies:
            assert_active(dy, brute_force(dy, energy), energy=energy)


@on_dtypes
def test_a_share_of_all_tokens(backend, dtype):
    for (tokens, out), shares in sizes_and_parts(backend, dtype, (1e-9, 0.1, 0.25, 0.5, 0.9, 1.0)):
        dy = uneven(tokens, out, dtype)
        for share in shares:
            assert_active(dy, brute_force(dy, share=share), share=share)


@pytest.mark.parametrize("energy", ENERGIES)
def test_it_holds_the_energy_and_no_smaller_set_does(backend, energy):
    """In exact norms; to half a whole number a row, which is what rounding takes."""
    for _ in range(5):
        dy = torch.randn(9, 4) * torch.rand(9, 1) ** 3
        index, count = ops.active_tokens(dy, energy)
        norms = dy.double().square().sum(1)
        slack = len(dy) / WHOLE * norms.max()
        assert norms[index[:count]].sum() >= energy * norms.sum() - slack
        for fewer in itertools.combinations(norms.tolist(), int(count) - 1):
            assert sum(fewer) <= energy * norms.sum() + slack


def test_the_energy_is_reached_and_not_only_nearly(backend):
    dy = torch.ones(4, 3)
    assert_active(dy, [0, 1], energy=0.5)
    assert_active(dy, [0, 1, 2], energy=0.5 + 1e-12)


def test_rows_of_zeros_are_never_active(backend):
    dy = torch.zeros(6, 3)
    for part in ({"energy": 0.5}, {"energy": 1.0}, {"share": 1.0}):
        assert_active(dy, [], **part)
    dy[4, 1], dy[2, 0], dy[0] = 1.0, 1e-20, -0.0
    assert_active(dy, [2, 4], energy=1.0)
    assert_active(dy, [2, 4], share=1.0)
    assert_active(dy, [4], energy=0.999)


@pytest.mark.parametrize("bad", BAD)
@on_dtypes
def test_with_inf_or_nan_every_token_is_active(backend, dtype, bad):
    parts = ({"energy": 1e-9}, {"share": 0.1}, {"energy": 1.0}, {"energy": 0.5}, {"share": 1.0})
    for number, place in enumerate((0, 3, 6)):
        dy = uneven(7, 5, dtype)
        dy[place, 2] = bad
        for part in parts[number::3] if ops.interpreted(backend) else parts:
            assert_active(dy, list(range(7)), **part)


def test_norms_beyond_the_dtype_are_finite_in_float64(backend):
    """Squares of float32 that overflow, or vanish, in float32."""
    dy = torch.tensor([[1e30, 0.0], [3e30, 0.0], [1e-30, 0.0]])
    assert_active(dy, [0, 1, 2], energy=1.0)
    assert_active(dy, [1], energy=0.85)
    assert_active(dy * 1e-30 * 1e-30, [1], energy=0.85)


@on_dtypes
def test_takes_any_strides_and_offsets(backend, dtype):
    dy = uneven(33, 16, dtype)
    expected = brute_force(dy, 0.9)
    for change in (spread, lambda t: t.T.contiguous().T, lambda t: framed(t)[0], lambda t: t.repeat_interleave(2, 0)[::2]):
        assert_active(change(dy), expected, energy=0.9)
    wide = dy[:1].expand(5, 16)
    assert_active(wide, brute_force(wide, 0.5), energy=0.5)


def tied(seed, tokens, out, dtype):
    """Copies of few rows, their entries permuted and scaled by powers of two: norms that are equal, or 4^n times each other."""
    random = torch.Generator("cpu").manual_seed(seed)
    with torch.device("cpu"):
        base = torch.randn(2, out, generator=random).to(dtype)
        rows = [base[i, torch.randperm(out, generator=random)] for i in torch.randint(2, (tokens,), generator=random)]
        scale = 2.0 ** torch.randint(-3, 2, (tokens, 1), generator=random)
        scale[torch.rand(tokens, 1, generator=random) < 0.2] = 0
        dy = (torch.stack(rows) * scale).to(dtype) if tokens else torch.empty(0, out, dtype=dtype)
    return dy.to(torch.get_default_device())


@given(
    seed=st.integers(0, 2**20),
    tokens=st.integers(0, 40),
    out=st.integers(1, 67),
    dtype=st.sampled_from(DTYPES),
    part=st.one_of(st.sampled_from(ENERGIES), st.floats(0.001, 1.0)),
)
def test_ties_are_broken_by_position(backend, seed, tokens, out, dtype, part):
    dy = tied(seed, tokens, out, dtype)
    assert_active(dy, brute_force(dy, part), energy=part)
    assert_active(dy, brute_force(dy, share=part), share=part)


@given(
    seed=st.integers(0, 2**20),
    tokens=st.integers(1, 40),
    out=st.integers(1, 67),
    dtype=st.sampled_from(DTYPES),
    energy=st.floats(1e-6, 1.0),
)
def test_equal_tokens_for_random_gradients(backend, seed, tokens, out, dtype, energy):
    torch.manual_seed(seed)
    dy = uneven(tokens, out, dtype)
    assert_active(dy, brute_force(dy, energy), energy=energy)


def test_permuted_copies_of_the_largest_row_are_ties(backend):
    """Their squares sum to numbers that differ in the last bit, by an order that each implementation has for itself."""
    for seed in range(20):
        torch.manual_seed(seed)
        row = torch.randn(64)
        dy = torch.stack([row[torch.randperm(64)] for _ in range(8)])
        assert_active(dy, [0, 1, 2, 3], energy=0.5)


@pytest.mark.parametrize("tokens", [255, 1024, 1025, 2500])
def test_many_tokens(backend, tokens):
    """More than one block of any kernel holds, ties across blocks included; the interpreter's have test_triton_tokens.py."""
    tokens = tokens // 8 if ops.interpreted(backend) else tokens
    dy = torch.ones(tokens, 4)
    dy[: tokens // 2] *= torch.rand(tokens // 2, 1)
    for energy in (0.5, 0.99):
        assert_active(dy, brute_force(dy, energy), energy=energy)


def test_the_same_tokens_at_every_run_and_on_two_threads(backend, two_threads):
    dy = uneven(300 if ops.interpreted(backend) else 5000, 24)
    first = ops.active_tokens(dy, 0.9)
    for _ in range(4):
        again = ops.active_tokens(dy, 0.9)
        assert torch.equal(again.index, first.index) and torch.equal(again.count, first.count)
    torch.set_num_threads(1)
    assert torch.equal(ops.active_tokens(dy, 0.9).index, first.index)


def test_the_gradient_is_left_alone_and_nothing_is_recorded(backend):
    dy = uneven(9, 5).requires_grad_()
    before = dy.detach().clone()
    tokens = ops.active_tokens(dy, 0.9)
    assert torch.equal(dy, before) and not tokens.count.requires_grad
    assert isinstance(tokens, ops.Tokens)
