"""Which tokens carry the gradient, and the input gradient of these alone; how many they are is known on the device alone.

Kernels are launched for as many active tokens as there may be, and programs beyond the count end at once: the host waits for
nothing, and a CUDA graph can hold it all.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..registry import INTERPRETED
from ..tokens import NORM_TOP, TOP
from .gradients import precision, unit_columns
from .narrow import narrow

CHUNK, CHUNK_WARPS = 4096, 16  # tokens that the one program which chooses looks at together
DRAWN_CHUNK = 2048  # likewise of the one that draws, whose sums take more registers
COLUMNS = 1024  # of a row, squared together
_TOP, _BITS = tl.constexpr(TOP), tl.constexpr(TOP.bit_length() - 1)
_NORM_TOP, _NORM_BITS = tl.constexpr(NORM_TOP), tl.constexpr(NORM_TOP.bit_length() + 1)


@triton.jit
def squared_norms(dy, out, width, dy_stride, column_stride, COLUMNS: tl.constexpr):
    """``out[t] = sum over j of dy[t, j]^2`` in float64, a row each program."""
    token = tl.program_id(0)
    row = dy + token.to(tl.int64) * dy_stride
    sums = tl.zeros((COLUMNS,), dtype=tl.float64)
    for begin in range(0, width, COLUMNS):
        j = begin + tl.arange(0, COLUMNS)
        a = tl.load(row + j.to(tl.int64) * column_stride, mask=j < width, other=0.0).to(tl.float64)
        sums += a * a
    tl.store(out + token, tl.sum(sums, 0))


@triton.jit
def held_from(least, energies, tokens, COUNTED: tl.constexpr, CHUNK: tl.constexpr):
    """What the tokens of energy `least` and more hold together, or how many they are; `least` is above zero."""
    sums = tl.zeros((CHUNK,), dtype=tl.int64)
    for begin in range(0, tokens, CHUNK):
        t = begin + tl.arange(0, CHUNK)
        energy = tl.load(energies + t, mask=t < tokens, other=0)
        sums += tl.where(energy >= least, 1 if COUNTED else energy, 0)
    return tl.sum(sums, 0)


@triton.jit
def write_energies(norms, energies, tokens, ROOTED: tl.constexpr, CHUNK: tl.constexpr):
    """Whole numbers in place of squared norms, as `reference.tokens` has `energies`, or if ROOTED `norms`; returns the energies' sum or
    that of the norms' squares, and whether all norms are finite. If not, they are alike."""
    highest, strange = tl.zeros((CHUNK,), dtype=tl.float64), tl.zeros((CHUNK,), dtype=tl.int32)
    for begin in range(0, tokens, CHUNK):
        t = begin + tl.arange(0, CHUNK)
        norm = tl.load(norms + t, mask=t < tokens, other=0.0)
        highest = tl.maximum(highest, norm)
        strange = tl.where(norm < float("inf"), strange, 1)
    largest, finite = tl.max(highest, 0), tl.max(strange, 0) == 0
    largest = tl.where(finite & (largest > 0), largest, 1.0)
    sums = tl.zeros((CHUNK,), dtype=tl.int64)
    for begin in range(0, tokens, CHUNK):
        t = begin + tl.arange(0, CHUNK)
        there = t < tokens
        norm = tl.where(finite, tl.load(norms + t, mask=there, other=0.0), 1.0)
        part = tl.sqrt(norm / largest) * _NORM_TOP if ROOTED else norm / largest * _TOP
        energy = tl.maximum((part + 0.5).to(tl.int32), 1)
        energy = tl.where(there & (norm > 0), energy, 0)
        tl.store(energies + t, energy, mask=there)
        sums += energy.to(tl.int64) * energy if ROOTED else energy
    return tl.sum(sums, 0), finite


@triton.jit
def choose_tokens(norms, energies, index, count, tokens, part: tl.float64, COUNTED: tl.constexpr, CHUNK: tl.constexpr):
    """By one program: the lowest energy that is taken, found bit by bit; then the indices, put together in their order.

    Of tokens that hold just that energy, the first ones are taken, until what is needed is reached.
    """
    total, finite = write_energies(norms, energies, tokens, False, CHUNK)
    tl.debug_barrier()  # each thread reads what others have written
    if COUNTED:
        total = total * 0 + tokens
    need = tl.maximum(tl.ceil(part * total.to(tl.float64)).to(tl.int64), 1)
    need = tl.where(finite, need, total)

    below, bit = tl.zeros((), dtype=tl.int32), tl.full((), _TOP, dtype=tl.int32)  # `below`: the lowest energy taken, less 1
    for _ in range(_BITS):
        bit = bit >> 1
        enough = held_from(below + bit + 1, energies, tokens, COUNTED, CHUNK) >= need
        below += tl.where(enough, bit, 0)
    least = below + 1
    above = held_from(least + 1, energies, tokens, COUNTED, CHUNK)

    taken, ties = tl.zeros((), dtype=tl.int32), tl.zeros((), dtype=tl.int32)
    for begin in range(0, tokens, CHUNK):
        t = begin + tl.arange(0, CHUNK)
        energy = tl.load(energies + t, mask=t < tokens, other=0)
        tie = (energy == least).to(tl.int32)
        before = (ties + tl.cumsum(tie, 0) - tie).to(tl.int64)  # ties, of which each holds `least`
        before = above + before * (1 if COUNTED else least)
        active = ((energy > least) | ((tie > 0) & (before < need))).to(tl.int32)
        tl.store(index + taken + tl.cumsum(active, 0) - active, t, mask=active > 0)
        taken += tl.sum(active, 0)
        ties += tl.sum(tie, 0)
    tl.store(count, taken)
    for begin in range(0, tokens, CHUNK):
        t = begin + tl.arange(0, CHUNK)
        tl.store(index + t, tokens, mask=(t >= taken) & (t < tokens))


@triton.jit
def error_of(level, norms, tokens, CHUNK: tl.constexpr):
    """What drawing adds to the error if tokens of norms below `level` are drawn."""
    sums = tl.zeros((CHUNK,), dtype=tl.int64)
    for begin in range(0, tokens, CHUNK):
        t = begin + tl.arange(0, CHUNK)
        norm = tl.load(norms + t, mask=t < tokens, other=0).to(tl.int64)
        sums += tl.where(norm < level, norm * (level - norm), 0)
    return tl.sum(sums, 0)


@triton.jit
def draw_tokens(squares, norms, index, count, weight, start, tokens, noise: tl.float64, CHUNK: tl.constexpr):
    """By one program: the level below which tokens are drawn, found bit by bit, then a step of that length along their norms."""
    total, finite = write_energies(squares, norms, tokens, True, CHUNK)
    tl.debug_barrier()  # each thread reads what others have written
    budget = tl.floor(noise * total.to(tl.float64)).to(tl.int64)
    level, bit = tl.zeros((), dtype=tl.int64), tl.full((), 2 * _NORM_TOP, dtype=tl.int64)
    for _ in range(_NORM_BITS):
        level += tl.where(error_of(level + bit, norms, tokens, CHUNK) <= budget, bit, 0)
        bit = bit >> 1
    level = tl.where(finite, tl.maximum(level, 1), 1).to(tl.int32)  # at most 2^20, and a chunk's norms add up to 2^29 at most

    step = (tl.load(start) * level.to(tl.float64)).to(tl.int32)
    taken = tl.zeros((), dtype=tl.int32)
    for begin in range(0, tokens, CHUNK):
        t = begin + tl.arange(0, CHUNK)
        norm = tl.load(norms + t, mask=t < tokens, other=0)
        light = tl.where(norm < level, norm, 0)
        after = step + tl.cumsum(light, 0)
        drawn = after // level > (after - light) // level
        active = ((norm > 0) & ((norm >= level) | drawn)).to(tl.int32)
        held = tl.where(active > 0, tl.maximum(level.to(tl.float64) / tl.maximum(norm, 1).to(tl.float64), 1.0), 0.0)
        tl.store(weight + t, held.to(tl.float32), mask=t < tokens)
        tl.store(index + taken + tl.cumsum(active, 0) - active, t, mask=active > 0)
        taken += tl.sum(active, 0)
        step = (step + tl.sum(light, 0)) % level
    tl.store(count, taken)
    for begin in range(0, tokens, CHUNK):
        t = begin + tl.arange(0, CHUNK)
        tl.store(index + t, tokens, mask=(t >= taken) & (t < tokens))


def drawn_tokens(dy: Tensor, noise: float, start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As `ops.drawn_tokens`, in two launches."""
    tokens, width = dy.shape
    index, weight = dy.new_empty(tokens, dtype=torch.int64), dy.new_empty(tokens, dtype=torch.float32)
    if tokens == 0:
        return index, dy.new_zeros((), dtype=torch.int64), weight
    count, squares = dy.new_empty((), dtype=torch.int64), dy.new_empty(tokens, dtype=torch.float64)
    norms = dy.new_empty(tokens, dtype=torch.int32)
    with torch.cuda.device_of(dy):
        squared_norms[(tokens,)](dy, squares, width, *dy.stride(), COLUMNS=COLUMNS)
        draw_tokens[(1,)](squares, norms, index, count, weight, start, tokens, noise, CHUNK=DRAWN_CHUNK, num_warps=CHUNK_WARPS)
    return index, count, weight


def active_tokens(dy: Tensor, part: float, counted: bool) -> tuple[Tensor, Tensor]:
    """As `ops.active_tokens`, in two launches."""
    tokens, width = dy.shape
    index = dy.new_empty(tokens, dtype=torch.int64)
    if tokens == 0:
        return index, dy.new_zeros((), dtype=torch.int64)
    count, norms = dy.new_empty((), dtype=torch.int64), dy.new_empty(tokens, dtype=torch.float64)
    energies = dy.new_empty(tokens, dtype=torch.int32)
    with torch.cuda.device_of(dy):
        squared_norms[(tokens,)](dy, norms, width, *dy.stride(), COLUMNS=COLUMNS)
        choose_tokens[(1,)](
            norms, energies, index, count, tokens, part, COUNTED=counted, CHUNK=CHUNK, num_warps=CHUNK_WARPS
        )  # fmt: skip
    return index, count


@triton.jit
def token_product(
    dy, weight, active, active_count, dx, tokens, rows, columns, dy_stride, weight_stride, weight_column_stride,
    TILE_TOKENS: tl.constexpr, TILE_COLUMNS: tl.constexpr, ROWS: tl.constexpr, PRECISION: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """``dx[t, j] = sum over i of dy[t, i] * weight[i, j]`` for one tile of active tokens t; the others' rows are left as they are."""
    across = tl.cdiv(columns, TILE_COLUMNS)
    first = tl.program_id(0) // across * TILE_TOKENS
    last = tl.minimum(tl.load(active_count), tokens)
    if first >= last:
        return
    place = first + tl.arange(0, TILE_TOKENS)
    t = tl.load(active + place, mask=place < last, other=-1)
    there = (t >= 0) & (t < tokens)
    j = tl.program_id(0) % across * TILE_COLUMNS + tl.arange(0, TILE_COLUMNS)
    weight += j.to(tl.int64)[None, :] * weight_column_stride

    sums = tl.zeros((TILE_TOKENS, TILE_COLUMNS), dtype=tl.float32)
    for begin in range(0, rows, ROWS):
        i = begin + tl.arange(0, ROWS)
        a = tl.load(dy + t[:, None] * dy_stride + i[None, :], mask=there[:, None] & (i < rows)[None, :], other=0.0)
        mask = (i < rows)[:, None] & (j < columns)[None, :]
        b = tl.load(weight + i.to(tl.int64)[:, None] * weight_stride, mask=mask, other=0.0)
        if WIDEN:
            a, b = a.to(tl.float32), b.to(tl.float32)
        sums = tl.dot(a, b, sums, input_precision=PRECISION)
    tl.store(
        dx + t[:, None] * columns + j[None, :], narrow(sums, dx.dtype.element_ty), mask=there[:, None] & (j < columns)[None, :]
    )


def input_grad(dy: Tensor, weight: Tensor, tokens: Tensor, count: Tensor) -> Tensor:
    """As `ops.input_grad`, but for float64: gather, product and scatter in one. The weight may be transposed, as Conv1D's is."""
    rows, columns = weight.shape
    dy, dx, tokens = unit_columns(dy), dy.new_zeros(dy.shape[0], columns), tokens.contiguous()
    if dx.numel() == 0:
        return dx
    tile_tokens, tile_columns, step = token_tiles(dy.dtype)
    programs = triton.cdiv(dy.shape[0], tile_tokens) * triton.cdiv(columns, tile_columns)
    with torch.cuda.device_of(dy):
        token_product[(programs,)](
            dy, weight, tokens, count, dx, dy.shape[0], rows, columns, dy.stride(0), *weight.stride(),
            TILE_TOKENS=tile_tokens, TILE_COLUMNS=tile_columns, ROWS=step, PRECISION=precision(dy), WIDEN=INTERPRETED, num_warps=4,
        )  # fmt: skip
    return dx


def token_tiles(dtype: torch.dtype) -> tuple[int, int, int]:
    """Tokens and columns of a tile, and rows of the weight of one step: few tokens, as few are active."""
    return (64, 128, 64) if dtype.itemsize == 2 else (32, 64, 32)
