"""AdamW over compact values, scattered into the dense weights: one launch for all parameters of the same dtypes."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.graph import increment_version

from ..fields import SETTINGS, TENSORS
from ..layout import BLOCKS, COLUMNS, DENSE, ROWS, Layout
from ..parameters import Parameters
from ..upload import upload
from .narrow import narrow
from .tables import length, places

OP = "adamw_step_"
CHUNK = 512  # entries of one program
TYPES = {torch.float32: tl.float32, torch.float64: tl.float64, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}

_ROWS, _COLUMNS, _BLOCKS, _DENSE = tl.constexpr(ROWS), tl.constexpr(COLUMNS), tl.constexpr(BLOCKS), tl.constexpr(DENSE)


class Chunk(NamedTuple):
    """What one program updates."""

    parameter: int
    first: int  # entry
    outer: int  # whole runs before that
    inner: int  # entries of its own run before that


class Shape(NamedTuple):
    """Where the entries of a parameter stand in its dense weight.

    A run is a row, the entries of one row in the selected columns, a block, or one element.
    """

    size: int  # entries
    kind: int
    row_size: int  # of the dense weight
    run: int  # entries
    height: int  # of a block
    width: int
    grid: int  # blocks side by side


class Scalars(NamedTuple):
    """What is the same for all entries of a parameter, as in csrc/adamw.h."""

    decay: Tensor
    beta1: Tensor
    one_minus_beta1: Tensor
    beta2: Tensor
    one_minus_beta2: Tensor
    step_size: Tensor
    correction2: Tensor
    eps: Tensor
    sign: Tensor


_TENSORS, _CHUNK, _SHAPE, _SCALARS = map(length, (TENSORS, Chunk._fields, Shape._fields, Scalars._fields))
_VALUES, _EXP_AVGS, _EXP_AVG_SQS, _MAX_EXP_AVG_SQS, _MASTERS, _ANCHORS, _DENSES, _INDICES = places(TENSORS)
_PARAMETER, _FIRST, _OUTER, _INNER = places(Chunk._fields)
_SIZE, _KIND, _ROW_SIZE, _RUN, _HEIGHT, _WIDTH, _GRID = places(Shape._fields)
_DECAY, _BETA1, _ONE_MINUS_BETA1, _BETA2, _ONE_MINUS_BETA2, _STEP_SIZE, _CORRECTION2, _EPS, _SIGN = places(Scalars._fields)


@triton.jit
def array(table, parameter, which: tl.constexpr, dtype: tl.constexpr):
    """One of a parameter's arrays, by its address."""
    return tl.load(table + parameter * _TENSORS + which).to(tl.pointer_type(dtype))


@triton.jit
def dense_offset(shapes, parameter, index, outer, inner, mask):
    """Where compact entries stand in the dense weight, from how many runs of entries lie before them, and how many entries.

    Divisions are of 32 bits, but for block numbers that need 64.
    """
    shape = shapes + parameter * _SHAPE
    kind, row_size, run = tl.load(shape + _KIND), tl.load(shape + _ROW_SIZE), tl.load(shape + _RUN).to(tl.int32)
    height, width = tl.load(shape + _HEIGHT), tl.load(shape + _WIDTH).to(tl.int32)
    grid = tl.load(shape + _GRID).to(index.dtype.element_ty)
    outer += inner // run
    inner %= run
    offset = outer
    if kind == _ROWS:
        offset = tl.load(index + outer, mask=mask, other=0).to(tl.int64) * row_size + inner
    elif kind == _COLUMNS:
        offset = outer * row_size + tl.load(index + inner, mask=mask, other=0).to(tl.int64)
    elif kind == _BLOCKS:
        block = tl.load(index + outer, mask=mask, other=0)
        row = (block // grid).to(tl.int64) * height + inner // width
        offset = row * row_size + (block % grid).to(tl.int64) * width + inner % width
    else:
        offset = tl.load(index + outer, mask=mask, other=0).to(tl.int64)
    return offset


@triton.jit
def adamw(
    chunks, addresses, grads, shapes, scalars, grad_scale, found_inf, clip,
    VALUE: tl.constexpr, GRAD: tl.constexpr, MOMENT: tl.constexpr, MASTER: tl.constexpr, ANCHOR: tl.constexpr, INDEX: tl.constexpr,
    WIDE: tl.constexpr, HAS_MASTER: tl.constexpr, ANCHORED: tl.constexpr, AMSGRAD: tl.constexpr, SCALED: tl.constexpr,
    SKIPPED: tl.constexpr, CLIPPED: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """Updates one chunk of one parameter."""
    chunk = chunks + tl.program_id(0).to(tl.int64) * _CHUNK
    parameter = tl.load(chunk + _PARAMETER)
    entry = tl.load(chunk + _FIRST) + tl.arange(0, SIZE)
    end = tl.load(shapes + parameter * _SHAPE + _SIZE)
    if SKIPPED:
        end = tl.where(tl.load(found_inf) == 0, end, 0)  # nothing is read or written
    mask = entry < end
    value = array(addresses, parameter, _VALUES, VALUE) + entry
    exp_avg = array(addresses, parameter, _EXP_AVGS, MOMENT) + entry
    exp_avg_sq = array(addresses, parameter, _EXP_AVG_SQS, MOMENT) + entry
    gradient = tl.load(grads + parameter).to(tl.pointer_type(GRAD)) + entry

    scalar = scalars + parameter * _SCALARS
    decay, eps, sign = tl.load(scalar + _DECAY).to(WIDE), tl.load(scalar + _EPS).to(WIDE), tl.load(scalar + _SIGN).to(WIDE)
    beta1, one_minus_beta1 = tl.load(scalar + _BETA1).to(WIDE), tl.load(scalar + _ONE_MINUS_BETA1).to(WIDE)
    beta2, one_minus_beta2 = tl.load(scalar + _BETA2).to(WIDE), tl.load(scalar + _ONE_MINUS_BETA2).to(WIDE)
    step_size, correction2 = tl.load(scalar + _STEP_SIZE).to(WIDE), tl.load(scalar + _CORRECTION2).to(WIDE)

    g = tl.load(gradient, mask=mask, other=0.0).to(WIDE)
    if SCALED:
        g = narrow(g / tl.load(grad_scale).to(WIDE), GRAD)
        tl.store(gradient, g, mask=mask)
        g = g.to(WIDE)
    if CLIPPED:
        sign *= tl.load(clip).to(WIDE)
    g *= sign
    held = value
    if HAS_MASTER:
        held = array(addresses, parameter, _MASTERS, MASTER) + entry
    weight = tl.load(held, mask=mask, other=0.0).to(WIDE)
    away = weight
    if ANCHORED:
        away = weight - tl.load(array(addresses, parameter, _ANCHORS, ANCHOR) + entry, mask=mask, other=0.0).to(WIDE)
    weight -= decay * away
    m = beta1 * tl.load(exp_avg, mask=mask, other=0.0).to(WIDE) + one_minus_beta1 * g
    v = beta2 * tl.load(exp_avg_sq, mask=mask, other=0.0).to(WIDE) + one_minus_beta2 * g * g
    tl.store(exp_avg, narrow(m, MOMENT), mask=mask)
    tl.store(exp_avg_sq, narrow(v, MOMENT), mask=mask)
    if AMSGRAD:
        largest = array(addresses, parameter, _MAX_EXP_AVG_SQS, MOMENT) + entry
        v = tl.maximum(v, tl.load(largest, mask=mask, other=0.0).to(WIDE), propagate_nan=tl.PropagateNan.ALL)
        tl.store(largest, narrow(v, MOMENT), mask=mask)
    weight -= step_size * m / (tl.sqrt(v) * correction2 + eps)

    if HAS_MASTER:
        tl.store(held, narrow(weight, MASTER), mask=mask)
    tl.store(value, narrow(weight, VALUE), mask=mask)
    if tl.load(shapes + parameter * _SHAPE + _KIND) != _DENSE:
        index = array(addresses, parameter, _INDICES, INDEX)
        dense = array(addresses, parameter, _DENSES, VALUE)
        inner = tl.load(chunk + _INNER).to(tl.int32) + tl.arange(0, SIZE)
        offset = dense_offset(shapes, parameter, index, tl.load(chunk + _OUTER), inner, mask)
        tl.store(dense + offset, narrow(weight, VALUE), mask=mask)


class AdamWPlan:
    """`adamw_step_` of the same tensors again and again: their addresses lie in tables on the device.

    Nothing waits for the GPU. In a CUDA graph, `settings` must lie on the device, and gradients where they were at the
    step before the capture.
    """

    def __init__(self, parameters: Parameters):
        values, every = parameters.values, Layout.every(parameters.layouts)
        self.parameters, self.device, self.written = parameters, values[0].device, parameters.written
        addresses = (map(Tensor.data_ptr, tensors) for tensors in parameters.tensors)
        self.addresses = self._table(list(zip(*addresses, strict=True)))
        shapes = list(map(shape_of, values, parameters.indices, every))
        self.shapes = self._table(shapes)
        self.runs = [shape.run for shape in shapes]
        self.scalars = torch.empty(len(values), len(Scalars._fields), dtype=torch.float64, device=self.device)
        self.grads, self.grad_addresses = torch.empty(len(values), dtype=torch.int64, device=self.device), None
        groups: dict[tuple, list[int]] = {}
        for i in range(len(values)):
            if values[i].numel():
                groups.setdefault(self._types(i, shapes[i].kind), []).append(i)
        self.groups = [(types, members, self._chunks(members)) for types, members in groups.items()]

    def _table(self, rows: list) -> Tensor:
        return torch.tensor(rows, dtype=torch.int64).to(self.device)

    def _types(self, i: int, kind: int) -> tuple:
        """What is compiled into the kernel for a parameter."""
        value, exp_avg, exp_avg_sq, largest, master, anchor, _, index = (tensors[i] for tensors in self.parameters.tensors)
        for other in (exp_avg_sq, largest) if self.parameters.amsgrad else (exp_avg_sq,):
            if exp_avg.dtype != other.dtype:
                raise ValueError(f"adamw_step_: moments must have one dtype, got {exp_avg.dtype} and {other.dtype}")
        index_dtype = torch.int32 if kind == DENSE else index.dtype
        return (
            value.dtype,
            exp_avg.dtype,
            master.dtype if master.numel() else None,
            anchor.dtype if anchor.numel() else None,
            index_dtype,
        )

    def _chunks(self, members: list[int]) -> Tensor:
        firsts = ((i, first) for i in members for first in range(0, self.parameters.values[i].numel(), CHUNK))
        return self._table([Chunk(i, first, *divmod(first, self.runs[i])) for i, first in firsts])

    def _scalars(self, settings: Tensor) -> Tensor:
        """On the device; where the settings lie there, they stay there."""
        if settings.device == self.device:
            return scalars(settings, self.parameters.maximize)
        upload(OP, "settings", self.scalars, scalars(settings, self.parameters.maximize))
        return self.scalars

    def _pointers(self, grads: list[Tensor]) -> Tensor:
        addresses = [grad.data_ptr() for grad in grads]
        if addresses != self.grad_addresses:
            upload(OP, "grads", self.grads, torch.tensor(addresses, dtype=torch.int64, device="cpu"))
            self.grad_addresses = addresses
        return self.grads

    def __call__(
        self,
        grads: list[Tensor],
        settings: Tensor,
        grad_scale: Tensor | None = None,
        found_inf: Tensor | None = None,
        clip: Tensor | None = None,
    ) -> None:
        table = self._scalars(settings)
        pointers = self._pointers(grads)
        grad_scale, found_inf, clip = (None if s is None else s.to(self.device) for s in (grad_scale, found_inf, clip))
        for (value, moment, master, anchor, index), members, chunks in self.groups:
            grad_dtypes = {grads[i].dtype for i in members}
            if len(grad_dtypes) != 1:
                raise ValueError(f"adamw_step_: grads of {value} values must have one dtype, got {sorted(map(str, grad_dtypes))}")
            with torch.cuda.device_of(table):
                adamw[(len(chunks),)](
                    chunks, self.addresses, pointers, self.shapes, table,
                    *(table if scalar is None else scalar for scalar in (grad_scale, found_inf, clip)),
                    VALUE=TYPES[value], GRAD=TYPES[grad_dtypes.pop()], MOMENT=TYPES[moment], MASTER=TYPES[master or torch.float32],
                    ANCHOR=TYPES[anchor or value], INDEX=tl.int64 if index == torch.int64 else tl.int32,
                    WIDE=tl.float64 if value == torch.float64 else tl.float32, HAS_MASTER=master is not None,
                    ANCHORED=anchor is not None, AMSGRAD=self.parameters.amsgrad, SCALED=grad_scale is not None,
                    SKIPPED=found_inf is not None, CLIPPED=clip is not None, SIZE=CHUNK,
                )  # fmt: skip
        increment_version(self.written)
        if grad_scale is not None:
            increment_version(grads)


def shape_of(values: Tensor, index: Tensor, layout: Layout) -> Shape:
    run = {ROWS: layout.columns, COLUMNS: index.numel(), BLOCKS: layout.block_rows * layout.block_columns}.get(layout.kind, 1)
    width = max(1, layout.block_columns)
    return Shape(
        size=values.numel(), kind=layout.kind, row_size=layout.columns, run=max(1, run),
        height=layout.block_rows, width=width, grid=max(1, layout.columns // width),
    )  # fmt: skip


def scalars(settings: Tensor, maximize: bool) -> Tensor:
    """In float64, a row for each parameter, from the table of `ops.adamw_step_`."""
    of = dict(zip(SETTINGS, settings.unbind(1), strict=True))
    lr, beta1, beta2, step = of["lr"], of["beta1"], of["beta2"], of["step"]
    return torch.stack(
        Scalars(
            decay=lr * of["weight_decay"],
            beta1=beta1,
            one_minus_beta1=1 - beta1,
            beta2=beta2,
            one_minus_beta2=1 - beta2,
            step_size=lr / (1 - beta1**step),
            correction2=(1 - beta2**step) ** -0.5,
            eps=of["eps"],
            sign=torch.full_like(lr, -1.0 if maximize else 1.0),
        ),
        1,
    )
