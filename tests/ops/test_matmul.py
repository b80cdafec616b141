"""What the vendor's products have of their own: strips, copies and padding. Results are tested in test_ops*.py."""

import importlib

import pytest
import torch
from made import Made
from oracles import DTYPES, KINDS, entries_of, pick
from tolerances import assert_close

from clm_kernels import Entries
from clm_kernels.ops import matmul, registry
from clm_kernels.ops.matmul.gradients import strips
from clm_kernels.ops.padding import padded, picked

GRADIENT, GRAM = (importlib.import_module(f"clm_kernels.ops.matmul.{name}") for name in ("gradients", "fisher"))
EIGHT = 8  # 16-bit numbers in 16 bytes

on_kinds = pytest.mark.parametrize("kind", KINDS)
on_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))


def scattered_blocks(shape, block, count):
    units = Entries.everything("blocks", shape, block).units
    return Entries.of("blocks", torch.randperm(units, device="cpu")[:count], shape, block).to(torch.get_default_device())


def test_no_implementation_copies_operands_block_by_block(backend, monkeypatch):
    """A fifth in 8 x 8 blocks: such a copy of one operand alone is twice the dense gradient, six strips of it."""
    monkeypatch.setattr(GRADIENT, "STRIP", 1 << 13)
    tokens, shape, count = 96, (256, 192), 128
    entries = scattered_blocks(shape, (8, 8), count)
    dy, x = (torch.randn(tokens, size) for size in shape)
    run = registry.implementation("weight_grad", dy.device)
    with Made() as made:
        grad = run(dy, x, entries.index, entries.layout, torch.float32)
    assert_close(grad, pick(dy.double().T @ x.double(), entries))
    copies, dense = dy.itemsize * tokens * count * 8, dy.itemsize * shape[0] * shape[1]
    assert made.largest <= dense < copies
    if backend == "matmul":
        assert made.largest == 4 << 13  # a strip, or the result


def test_slices_for_large_blocks_are_few(monkeypatch):
    """They take the place of strips up to a few times the operands' size."""
    dy, x = torch.randn(16, 64), torch.randn(16, 64)
    for count, batched in ((2, True), (60, False)):
        entries = scattered_blocks((64, 64), (8, 8), count)
        with Made() as made:
            matmul.weight_grad(dy, x, entries.index, entries.layout, torch.float32)
        assert (made.products[0][0].ndim == 3) == batched
        assert made.largest <= GRADIENT.COPIES * (dy.nbytes + x.nbytes)


@on_kinds
@on_dtypes
@pytest.mark.parametrize("strip", [1, 100, 1000])
def test_strips_of_any_height(monkeypatch, kind, dtype, strip):
    """Down to one row, or one row of blocks; the last one is shorter."""
    monkeypatch.setattr(GRADIENT, "STRIP", strip)
    monkeypatch.setattr(GRADIENT, "COPIES", 0)
    dy, x = torch.randn(9, 33).to(dtype), torch.randn(9, 21).to(dtype)
    for which in ("none", "some", "all"):
        entries = entries_of(kind, (33, 21), which, (3, 7))
        grad = matmul.weight_grad(dy, x, entries.index, entries.layout, dtype)
        assert_close(grad, pick(dy.double().T @ x.double(), entries))


def test_strips_hold_every_element_once():
    index = torch.randperm(350)[:40].sort().values.int()
    found = strips(index, 7, height=4)
    assert [begin for _, begin, _ in found] == [0, *(end for *_, end in found[:-1])] and found[-1][2] == 40
    for row, begin, end in found:
        assert begin < end and (index[begin:end] // 7 // 4 == row // 4).all() and row % 4 == 0
    assert strips(index, 7, height=4) is found


@pytest.fixture
def as_on_cuda(monkeypatch):
    """Pads 16-bit operands on the CPU too."""
    for module in (GRADIENT, GRAM):
        monkeypatch.setattr(module, "lanes", lambda operand: EIGHT)


@on_kinds
@pytest.mark.parametrize("sliced", [False, True])
def test_odd_widths_are_padded_for_the_product(as_on_cuda, monkeypatch, kind, sliced):
    """41 x 23 entries of 13 tokens: the leading dimension of what is multiplied is a multiple of 8, and so are its sides."""
    monkeypatch.setattr(GRADIENT, "STRIP", 250)  # ten rows, were it not for the alignment
    monkeypatch.setattr(GRADIENT, "COPIES", 0)
    dy, x = torch.randn(13, 41).bfloat16(), torch.randn(13, 23).bfloat16()
    expected = dy.double().T @ x.double()
    for which in ("some", "all"):
        entries = entries_of(kind, (41, 23), which, (41, 1))
        operands = [dy, x]
        if sliced and kind in ("rows", "columns"):
            operands[KINDS.index(kind)] = operands[KINDS.index(kind)][:, entries.index]
        with Made() as made:
            grad = matmul.weight_grad(*operands, entries.index, entries.layout, torch.float32)
        assert grad.is_contiguous() and grad.shape == entries.compact_shape
        assert_close(grad, pick(expected, entries))
        assert made.products
        for a, b in made.products:
            assert a.stride(1) % EIGHT == 0 and b.stride(0) % EIGHT == 0 and b.shape[1] % EIGHT == 0
            assert a.storage_offset() % EIGHT == 0 and b.storage_offset() % EIGHT == 0


def test_odd_widths_are_padded_for_gram_matrices(as_on_cuda):
    dy, x = torch.randn(2, 5, 41).bfloat16(), torch.randn(2, 5, 23).bfloat16()
    gram = GRAM.gram_matrices(x, None)
    with Made() as made:
        assert_close(GRAM.gram_matrices(x, None), gram)
    assert made.products[0][0].shape == (2, 5, 24)
    assert matmul.sensitivity(dy, x, "columns").shape == (23,)


def test_what_is_aligned_already_is_not_copied():
    fits = torch.randn(6, 32).bfloat16()
    assert padded(fits, EIGHT) is fits and padded(fits[:, 8:16], EIGHT).data_ptr() == fits[:, 8:16].data_ptr()
    for off in (fits[:, 1:17], torch.randn(6, 33).bfloat16()[:, :16], fits.T.contiguous().T, fits[:, ::2], fits[:, :13]):
        copy = padded(off, EIGHT)
        assert copy.stride(0) % EIGHT == 0 and copy.stride(1) == 1 and copy.data_ptr() % 16 == 0
        assert torch.equal(copy[:, : off.shape[1]], off) and not copy[:, off.shape[1] :].any()
    assert padded(fits[:, :13], 1).shape == (6, 13)
    index = torch.tensor([1, 4, 9])
    assert torch.equal(picked(fits, index, EIGHT)[:, :3], fits[:, index]) and picked(fits, index, EIGHT).shape == (6, 8)
