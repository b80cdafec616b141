"""What each op asks of its arguments; called where the dispatcher runs it, by the fakes, and nowhere else (`schemas`).

A message is put together only when it is raised: it costs more than the check, and `torch.compile` cannot format a
size that it traces as a symbol.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import refuse, require
from .fields import SETTINGS
from .layout import COLUMNS, DENSE, KINDS, ROWS, Layout

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
INTS = (torch.int32, torch.int64)


def check_float(op: str, argument: str, tensor: Tensor) -> None:
    check_float_dtype(op, argument, tensor.dtype)


def check_float_dtype(op: str, argument: str, dtype: torch.dtype) -> None:
    require(dtype in FLOATS, op, argument, "float32, float64, bfloat16 or float16", dtype)


def check_same(op: str, argument: str, tensor: Tensor, other: str, like: Tensor, dtype: bool = True) -> None:
    if dtype and tensor.dtype != like.dtype:
        refuse(op, argument, f"{like.dtype} as {other}", tensor.dtype)
    if tensor.device != like.device:
        refuse(op, argument, f"on {like.device} as {other}", tensor.device)


def check_shape(op: str, argument: str, tensor: Tensor, shape: Sequence[int]) -> None:
    if tensor.shape != tuple(shape):
        refuse(op, argument, f"of shape {tuple(shape)}", tuple(tensor.shape))


def check_contiguous(op: str, argument: str, tensor: Tensor) -> None:
    if not tensor.is_contiguous():
        refuse(op, argument, "contiguous", f"strides {tensor.stride()}")


def check_index(op: str, index: Tensor, like: Tensor) -> None:
    if index.dim() != 1 or index.dtype not in INTS:
        refuse(op, "index", "1-D, int32 or int64", f"{index.dtype} of shape {tuple(index.shape)}")
    check_contiguous(op, "index", index)
    if index.device != like.device:
        refuse(op, "index", f"on {like.device}", index.device)


def check_index_values(op: str, index: Tensor, units: int) -> None:
    """Reads the index, which on a GPU waits for it: once, see `owned`."""
    if index.numel() > 1 and not bool((index[1:] > index[:-1]).all()):
        refuse(op, "index", "sorted and unique", "another order; Entries.of sorts for you")
    if index.numel() and not (0 <= int(index[0]) and int(index[-1]) < units):
        refuse(op, "index", f"in [0, {units})", f"{int(index[0])} to {int(index[-1])}")


def check_weight_grad(
    dy: Tensor,
    x: Tensor,
    index: Tensor,
    layout: Layout,
    dtype: torch.dtype,
    tokens: Tensor | None = None,
    count: Tensor | None = None,
    op: str = "weight_grad",
) -> None:
    check_float(op, "dy", dy)
    check_float_dtype(op, "dtype", dtype)
    check_same(op, "x", x, "dy", dy)
    check_index(op, index, dy)
    units = index.shape[0]
    for name, tensor, size, selected in (("dy", dy, layout.rows, ROWS), ("x", x, layout.columns, COLUMNS)):
        sizes = (size, units) if layout.kind == selected else (size,)
        if tensor.dim() != 2 or tensor.shape[1] not in sizes:
            refuse(op, name, "of shape " + " or ".join(f"(T, {s})" for s in sizes), tuple(tensor.shape))
    if x.shape[0] != dy.shape[0]:
        refuse(op, "x", f"of {dy.shape[0]} tokens as dy", x.shape[0])
    require((tokens is None) == (count is None), op, "tokens and count", "given together", "one of them")
    if tokens is not None:
        check_tokens(op, tokens, count, dy)


def check_tokens(op: str, tokens: Tensor, count: Tensor, like: Tensor) -> None:
    for argument, tensor, shape in (("tokens", tokens, like.shape[:1]), ("count", count, ())):
        check_shape(op, argument, tensor, shape)
        require(tensor.dtype == torch.int64, op, argument, "int64", tensor.dtype)
        check_same(op, argument, tensor, "dy", like, dtype=False)


def check_token_values(op: str, tokens: Tensor, count: Tensor) -> None:
    """Reads them, on the CPU alone: a GPU's host would wait, and its kernels leave out what is not a token."""
    if tokens.device.type != "cpu":
        return
    held = int(count)
    require(0 <= held <= len(tokens), op, "count", f"in [0, {len(tokens)}]", held)
    active = tokens[:held]
    require(not held or bool((active[1:] > active[:-1]).all()), op, "tokens", "ascending up to count", "another order")
    if held and not (0 <= int(active[0]) and int(active[-1]) < len(tokens)):
        refuse(op, "tokens", f"in [0, {len(tokens)}) up to count", f"{int(active[0])} to {int(active[-1])}")


def check_active_tokens(dy: Tensor, part: float, counted: bool, op: str = "active_tokens") -> None:
    check_float(op, "dy", dy)
    if dy.dim() != 2:
        refuse(op, "dy", "of shape (T, out)", tuple(dy.shape))
    require(0 < part <= 1, op, "share" if counted else "energy", "in (0, 1]", part)


def check_drawn_tokens(dy: Tensor, noise: float, start: Tensor, op: str = "drawn_tokens") -> None:
    check_float(op, "dy", dy)
    if dy.dim() != 2:
        refuse(op, "dy", "of shape (T, out)", tuple(dy.shape))
    require(0 <= noise < 1, op, "noise", "in [0, 1)", noise)
    if start.dim() != 0 or start.dtype != torch.float64 or start.device != dy.device:
        refuse(op, "start", f"a number in float64 on {dy.device}", f"{tuple(start.shape)} {start.dtype} on {start.device}")


def check_input_grad(dy: Tensor, weight: Tensor, tokens: Tensor, count: Tensor, op: str = "input_grad") -> None:
    check_float(op, "dy", dy)
    check_same(op, "weight", weight, "dy", dy)
    if weight.dim() != 2 or dy.dim() != 2 or dy.shape[1] != weight.shape[0]:
        refuse(op, "dy", "of shape (T, out) beside weight (out, in)", f"{tuple(dy.shape)} beside {tuple(weight.shape)}")
    check_tokens(op, tokens, count, dy)


def check_embedding_grad(
    dy: Tensor, ids: Tensor, index: Tensor, layout: Layout, dtype: torch.dtype, op: str = "embedding_grad"
) -> None:  # fmt: skip
    check_float(op, "dy", dy)
    check_float_dtype(op, "dtype", dtype)
    check_index(op, index, dy)
    if layout.kind != ROWS:
        refuse(op, "entries", "rows", KINDS[layout.kind])
    if dy.dim() != 2 or dy.shape[1] != layout.columns:
        refuse(op, "dy", f"of shape (T, {layout.columns})", tuple(dy.shape))
    require(ids.dtype in INTS, op, "ids", "int32 or int64", ids.dtype)
    check_shape(op, "ids", ids, (dy.shape[0],))
    check_same(op, "ids", ids, "dy", dy, dtype=False)


def check_dense(op: str, argument: str, dense: Tensor, layout: Layout, contiguous: bool = True) -> None:
    check_shape(op, argument, dense, (layout.rows, layout.columns))
    check_float(op, argument, dense)
    if contiguous:
        check_contiguous(op, argument, dense)


def check_scatter(dense: Tensor, index: Tensor, layout: Layout, values: Tensor, op: str = "scatter_") -> None:
    check_dense(op, "dense", dense, layout)
    check_index(op, index, dense)
    check_shape(op, "values", values, layout.compact_shape(index.shape[0]))
    check_same(op, "values", values, "dense", dense)


def check_gather(dense: Tensor, index: Tensor, layout: Layout, op: str = "gather") -> None:
    check_dense(op, "dense", dense, layout, contiguous=False)
    check_index(op, index, dense)


def check_masked_grad(
    grad: Tensor, dense_grad: Tensor, index: Tensor, layout: Layout, scale: float, op: str = "masked_grad_"
) -> None:  # fmt: skip
    check_dense(op, "dense_grad", dense_grad, layout, contiguous=False)
    check_index(op, index, dense_grad)
    check_float(op, "grad", grad)
    check_shape(op, "grad", grad, layout.compact_shape(index.shape[0]))
    check_same(op, "grad", grad, "dense_grad", dense_grad, dtype=False)
    check_contiguous(op, "grad", grad)


def check_sensitivity(dy: Tensor, x: Tensor, kind: str, weights: Tensor | None = None, op: str = "sensitivity") -> None:
    if kind not in ("rows", "columns"):
        refuse(op, "kind", "rows or columns", repr(kind))
    check_float(op, "dy", dy)
    if dy.dim() != 3:
        refuse(op, "dy", "of shape (B, T, out)", tuple(dy.shape))
    check_same(op, "x", x, "dy", dy)
    if x.dim() != 3 or x.shape[:2] != dy.shape[:2]:
        refuse(op, "x", f"of shape ({dy.shape[0]}, {dy.shape[1]}, in)", tuple(x.shape))
    if weights is not None:
        check_shape(op, "weights", weights, dy.shape[:2])
        check_same(op, "weights", weights, "dy", dy, dtype=False)
        require(not weights.dtype.is_complex, op, "weights", "real", weights.dtype)


def check_scalar(op: str, argument: str, tensor: Tensor | None) -> None:
    if tensor is not None and tensor.numel() != 1:
        refuse(op, argument, "a tensor of one element", f"shape {tuple(tensor.shape)}")


def check_adamw_step(
    values: list[Tensor],
    lists: dict[str, list[Tensor]],
    layouts: Sequence[int],
    settings: Tensor,
    amsgrad: bool,
    op: str = "adamw_step_",
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
    clip: Tensor | None = None,
) -> None:
    for name, tensors in lists.items():
        if len(tensors) != len(values):
            refuse(op, name, f"a list of {len(values)} as values", len(tensors))
    numbers = len(Layout._fields) * len(values)
    if len(layouts) != numbers:
        refuse(op, "layouts", f"{numbers} ints", len(layouts))
    places = [torch.device("cpu"), *(value.device for value in values[:1])]
    if settings.dtype != torch.float64 or settings.shape != (len(values), len(SETTINGS)) or settings.device not in places:
        expected = f"float64 of shape ({len(values)}, {len(SETTINGS)}) on {' or '.join(dict.fromkeys(map(str, places)))}"
        refuse(op, "settings", expected, f"{settings.dtype} of shape {tuple(settings.shape)} on {settings.device}")
    for name, tensor in (("grad_scale", grad_scale), ("found_inf", found_inf), ("clip", clip)):
        check_scalar(op, name, tensor)
    optional = {"max_exp_avg_sqs": not amsgrad, "masters": True, "anchors": True}
    for i, (value, layout) in enumerate(zip(values, Layout.every(layouts))):
        check_float(op, f"values[{i}]", value)
        check_contiguous(op, f"values[{i}]", value)
        for name in ("grads", "exp_avgs", "exp_avg_sqs", *optional):
            tensor = lists[name][i]
            if optional.get(name) and tensor.numel() == 0:
                continue
            argument = f"{name}[{i}]"
            check_shape(op, argument, tensor, value.shape)
            check_float(op, argument, tensor)
            check_same(op, argument, tensor, "values", value, dtype=False)
            check_contiguous(op, argument, tensor)
        if lists["masters"][i].numel() and (lists["masters"][i].dtype != torch.float32 or value.dtype.itemsize != 2):
            refuse(op, f"masters[{i}]", "float32 beside 16-bit values", f"{lists['masters'][i].dtype} beside {value.dtype}")
        layout = Layout.checked(f"{op}[{i}]", layout, dense=True)
        if layout.kind != DENSE:
            check_scatter(lists["denses"][i], lists["indices"][i], layout, value, op=f"{op}[{i}]")
