"""What is Triton's own of active tokens: chunks, shares and guards of its kernels. Results are tested over all implementations."""

import inspect
import sys
from collections import Counter
from math import ceil

import pytest
import torch
from dealt_groups import deal_out
from oracles import KINDS, entries_of, framed, pick
from tolerances import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("triton")

from clm_kernels.ops import reference
from clm_kernels.ops import triton as kernels
from clm_kernels.ops.registry import INTERPRETED
from clm_kernels.ops.triton import gradients, grouped_grad, sampled_product
from clm_kernels.ops.triton import tokens as module
from clm_kernels.ops.triton.tokens import token_tiles

pytestmark = pytest.mark.skipif(not INTERPRETED, reason="for Triton's interpreter on the CPU")
SHAPE, BLOCK = (48, 32), (16, 8)
EVERY_KIND = (*KINDS, "groups")


def tokens_of(active, tokens):
    index = torch.full((tokens,), tokens)
    index[: len(active)] = torch.tensor(active, dtype=torch.int64)
    return index, torch.tensor(len(active))


def some(kind, shape=SHAPE):
    return deal_out(shape, 4) if kind == "groups" else entries_of(kind, shape, "some", BLOCK)


@pytest.mark.parametrize("counted", [False, True], ids=["energy", "share"])
@pytest.mark.parametrize("part", [1e-12, 0.3, 1.0])
def test_the_chosen_are_the_same_however_long_the_chunks(monkeypatch, part, counted):
    """Ties lie in several chunks, and in one chunk some are taken and some are not."""
    monkeypatch.setattr(module, "CHUNK", 16)
    ties = torch.randint(-1, 2, (40, 3)).float()
    ties[5::9] = 0
    spread = torch.randn(40, 3) * torch.logspace(-9, 2, 40)[torch.randperm(40)][:, None]
    for dy in (ties, spread, spread.bfloat16(), spread.double(), torch.zeros(40, 3)):
        for found, expected in zip(kernels.active_tokens(dy, part, counted), reference.active_tokens(dy, part, counted)):
            assert torch.equal(found, expected)


@pytest.mark.parametrize("noise", [0.01, 0.2, 0.9])
def test_the_drawn_are_the_same_however_long_the_chunks(monkeypatch, noise):
    monkeypatch.setattr(module, "DRAWN_CHUNK", 16)
    equal, spread = torch.ones(40, 3), torch.randn(40, 3) * torch.logspace(-9, 2, 40)[torch.randperm(40)][:, None]
    equal[5::9] = 0
    for dy in (equal, spread, torch.zeros(40, 3)):
        for start in (0.0, 0.6):
            at = torch.tensor(start, dtype=torch.float64)
            for found, expected in zip(kernels.drawn_tokens(dy, noise, at), reference.drawn_tokens(dy, noise, at)):
                assert torch.equal(found, expected)
    assert inspect.signature(module.draw_tokens.fn).parameters["noise"].annotation == "tl.float64"


def test_an_energy_is_not_rounded_to_float32():
    """Of ten equal tokens 0.3 is three, but float32's 0.3, which is larger, is four."""
    assert int(kernels.active_tokens(torch.ones(10, 1), 0.3, False)[1]) == 3
    assert int(kernels.active_tokens(torch.ones(10, 1), 0.3, True)[1]) == 3
    part = inspect.signature(module.choose_tokens.fn).parameters["part"]
    assert part.annotation == "tl.float64"  # else a compiled kernel takes float32, though the interpreter does not


@pytest.mark.parametrize("where", ["first", "last"])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_what_is_not_finite_in_any_chunk_makes_all_active(monkeypatch, where, value):
    monkeypatch.setattr(module, "CHUNK", 16)
    dy = torch.randn(37, 3)
    dy[20] = 0
    dy[{"first": 0, "last": -1}[where], 1] = float(value)
    for counted in (False, True):
        index, count = kernels.active_tokens(dy, 0.1, counted)
        assert count == 37 and index.tolist() == [*range(37)]


@pytest.mark.parametrize("transposed", [False, True])
def test_no_token_outside_is_read_or_written(monkeypatch, transposed):
    """Below 0, at T and above, with a count above T: rows beside the operands hold sentinels, which are large."""
    checks = []

    def zeros(like, *shape):
        view, check = framed(torch.zeros(shape, dtype=like.dtype))
        checks.append(check)
        return view

    monkeypatch.setattr(torch.Tensor, "new_zeros", zeros)
    wide = torch.full((11, 48), 1e30)
    dy, x = wide[3:8], torch.full((11, 32), 1e30)[3:8]
    dy.normal_(), x.normal_()
    weight = torch.randn(32, 48).T if transposed else torch.randn(SHAPE)
    index, count = torch.tensor([-1, 1, 3, 5, 7]), torch.tensor(99)
    expected = torch.zeros(5, 32, dtype=torch.float64)
    expected[[1, 3]] = dy[[1, 3]].double() @ weight.double()
    assert_close(kernels.input_grad(dy, weight, index, count), expected)
    checks[0]()
    for kind in EVERY_KIND:
        entries = some(kind)
        grad = kernels.active_weight_grad(dy, x, entries._held, entries.layout, torch.float32, index, count)
        assert_close(grad, pick(dy[[1, 3]].double().T @ x[[1, 3]].double(), entries))


@pytest.mark.parametrize("kind", EVERY_KIND)
@pytest.mark.parametrize("count", [0, 1, 130, 256])
def test_shares_of_active_tokens_are_added(monkeypatch, kind, count):
    """The host shares out the largest case; on the device each share holds a part of the count, or nothing. The others' rows
    hold NaN."""
    for each in (gradients, grouped_grad):
        monkeypatch.setattr(each, "processors", lambda device: 64)
    active = sorted(torch.randperm(256)[:count].tolist())
    dy, x = torch.full((256, 48), torch.nan), torch.full((256, 32), torch.nan)
    dy[active], x[active] = torch.randn(count, 48) / 16, torch.randn(count, 32)
    entries = some(kind)
    grad = kernels.active_weight_grad(dy, x, entries._held, entries.layout, torch.float32, *tokens_of(active, 256))
    assert_close(grad, pick(dy[active].double().T @ x[active].double(), entries))


def products_of(monkeypatch):
    """A list that gets the place in the grid of every program that multiplies two tiles."""
    builder, products = sys.modules["triton.runtime.interpreter"].interpreter_builder, []
    dot = builder.create_dot
    monkeypatch.setattr(builder, "create_dot", lambda *args: (products.append(builder.grid_idx), dot(*args))[1])
    return products


@pytest.mark.parametrize("kind", ["columns", "groups"])
def test_active_tokens_are_shared_out_evenly(monkeypatch, kind):
    """Not so that the first share of the largest case holds them all."""
    for each in (gradients, grouped_grad):
        monkeypatch.setattr(each, "processors", lambda device: 64)
    products, entries = products_of(monkeypatch), deal_out(SHAPE, 1) if kind == "groups" else entries_of(kind, SHAPE, "all")
    dy, x, active = torch.randn(256, 48), torch.randn(256, 32), tokens_of([*range(64)], 256)
    kernels.active_weight_grad(dy, x, entries._held, entries.layout, dy.dtype, *active)
    assert [*Counter(products).values()] == [2, 2]  # of 16 tokens each; the host makes two shares of 256


@pytest.mark.parametrize("count", [0, 1, 33, 100])
def test_work_is_that_of_the_active_tokens(monkeypatch, count):
    """Products of tiles, counted: programs beyond the count end at once, and loops end with it."""
    products = products_of(monkeypatch)
    dy, x, weight = torch.randn(100, 80), torch.randn(100, 32), torch.randn(80, 100)
    active = tokens_of([*range(count)], 100)
    kernels.input_grad(dy, weight, *active)
    tile_tokens, tile_columns, step = token_tiles(dy.dtype)
    assert len(products) == ceil(count / tile_tokens) * ceil(100 / tile_columns) * ceil(80 / step)
    products.clear()
    entries = entries_of("columns", (80, 32), "all")
    kernels.active_weight_grad(dy, x, entries._held, entries.layout, dy.dtype, *active)
    assert len(products) == ceil(80 / 64) * ceil(count / gradients.tile_sizes(80, 32, dy.dtype)[2])


class NoReads(TorchDispatchMode):
    """Refuses what makes a host wait for a GPU."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function.overloadpacket not in (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero), function
        return function(*args, **(kwargs or {}))


class Launched:
    """In place of a kernel, whose interpreter reads what it likes."""

    def __getitem__(self, grid):
        return lambda *args, **kwargs: None


def test_no_host_waits_for_the_count(monkeypatch):
    for place, kernel in (
        (module, "squared_norms"), (module, "choose_tokens"), (module, "token_product"), (gradients, "outer_product"),
        (grouped_grad, "grouped_product"), (sampled_product, "sampled_product"),
    ):  # fmt: skip
        monkeypatch.setattr(place, kernel, Launched())
    dy, x = torch.randn(100, 48), torch.randn(100, 32)
    selections = [some(kind) for kind in EVERY_KIND]
    for entries in selections:
        kernels.weight_grad(dy, x, entries._held, entries.layout, dy.dtype)  # which asks once whether blocks are groups
    with NoReads():
        active = kernels.active_tokens(dy, 0.9, False)
        kernels.input_grad(dy, torch.randn(SHAPE), *active)
        for entries in selections:
            kernels.active_weight_grad(dy, x, entries._held, entries.layout, dy.dtype, *active)
