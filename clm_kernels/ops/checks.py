"""What each op asks of its arguments; called by the public functions and by the fakes, and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .layout import COLUMNS, DENSE, ROWS, Layout

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
SETTINGS = ("lr", "beta1", "beta2", "eps", "weight_decay", "step")


def require(condition: bool, op: str, argument: str, expected: str, actual: object) -> None:
    if not condition:
        raise ValueError(f"{op}: {argument} must be {expected}, got {actual}")


def check_float(op: str, argument: str, tensor: Tensor) -> None:
    require(tensor.dtype in FLOATS, op, argument, "float32, float64, bfloat16 or float16", tensor.dtype)


def check_same(op: str, argument: str, tensor: Tensor, other: str, like: Tensor, dtype: bool = True) -> None:
    if dtype:
        require(tensor.dtype == like.dtype, op, argument, f"{like.dtype} as {other}", tensor.dtype)
    require(tensor.device == like.device, op, argument, f"on {like.device} as {other}", tensor.device)


def check_shape(op: str, argument: str, tensor: Tensor, shape: Sequence[int]) -> None:
    require(tensor.shape == tuple(shape), op, argument, f"of shape {tuple(shape)}", f"{tuple(tensor.shape)}")


def check_index(op: str, index: Tensor, like: Tensor) -> None:
    ints = (torch.int32, torch.int64)
    require(index.dim() == 1 and index.dtype in ints, op, "index", "1-D, int32 or int64", f"{index.dtype} of {tuple(index.shape)}")
    require(index.is_contiguous(), op, "index", "contiguous", f"strides {index.stride()}")
    require(index.device == like.device, op, "index", f"on {like.device}", index.device)


def check_weight_grad(dy: Tensor, x: Tensor, index: Tensor, layout: Layout, op: str = "weight_grad") -> None:
    check_float(op, "dy", dy)
    check_same(op, "x", x, "dy", dy)
    check_index(op, index, dy)
    count = index.numel()
    for name, tensor, size, selected in (("dy", dy, layout.rows, ROWS), ("x", x, layout.columns, COLUMNS)):
        sizes = (size, count) if layout.kind == selected else (size,)
        expected = " or ".join(f"(T, {s})" for s in sizes)
        require(tensor.dim() == 2 and tensor.shape[1] in sizes, op, name, f"of shape {expected}", tuple(tensor.shape))
    require(x.shape[0] == dy.shape[0], op, "x", f"of {dy.shape[0]} tokens as dy", x.shape[0])


def check_embedding_grad(dy: Tensor, ids: Tensor, index: Tensor, layout: Layout, op: str = "embedding_grad") -> None:
    check_float(op, "dy", dy)
    check_index(op, index, dy)
    require(layout.kind == ROWS, op, "entries", "rows", f"layout {tuple(layout)}")
    require(dy.dim() == 2 and dy.shape[1] == layout.columns, op, "dy", f"of shape (T, {layout.columns})", tuple(dy.shape))
    require(ids.dtype in (torch.int32, torch.int64), op, "ids", "int32 or int64", ids.dtype)
    check_shape(op, "ids", ids, (dy.shape[0],))
    check_same(op, "ids", ids, "dy", dy, dtype=False)


def check_dense(op: str, argument: str, dense: Tensor, layout: Layout, contiguous: bool = True) -> None:
    check_shape(op, argument, dense, (layout.rows, layout.columns))
    check_float(op, argument, dense)
    if contiguous:
        require(dense.is_contiguous(), op, argument, "contiguous", f"strides {dense.stride()}")


def check_scatter(dense: Tensor, index: Tensor, layout: Layout, values: Tensor, op: str = "scatter_") -> None:
    check_dense(op, "dense", dense, layout)
    check_index(op, index, dense)
    check_shape(op, "values", values, layout.compact_shape(index.numel()))
    check_same(op, "values", values, "dense", dense)


def check_gather(dense: Tensor, index: Tensor, layout: Layout, op: str = "gather") -> None:
    check_dense(op, "dense", dense, layout, contiguous=False)
    check_index(op, index, dense)


def check_masked_grad(grad: Tensor, dense_grad: Tensor, index: Tensor, layout: Layout, op: str = "masked_grad_") -> None:
    check_dense(op, "dense_grad", dense_grad, layout, contiguous=False)
    check_index(op, index, dense_grad)
    check_float(op, "grad", grad)
    check_shape(op, "grad", grad, layout.compact_shape(index.numel()))
    check_same(op, "grad", grad, "dense_grad", dense_grad, dtype=False)
    require(grad.is_contiguous(), op, "grad", "contiguous", f"strides {grad.stride()}")


def check_adamw_step(
    values: list[Tensor],
    lists: dict[str, list[Tensor]],
    denses: list[Tensor],
    indices: list[Tensor],
    layouts: Sequence[int],
    settings: Tensor,
    amsgrad: bool,
    op: str = "adamw_step_",
) -> None:
    for name, tensors in lists.items():
        require(len(tensors) == len(values), op, name, f"a list of {len(values)} as values", len(tensors))
    require(len(layouts) == 5 * len(values), op, "layouts", f"{5 * len(values)} ints", len(layouts))
    require(
        settings.dtype == torch.float64 and settings.shape == (len(values), len(SETTINGS)),
        op, "settings", f"float64 of shape ({len(values)}, {len(SETTINGS)})", f"{settings.dtype} {tuple(settings.shape)}",
    )  # fmt: skip
    optional = {"max_exp_avg_sqs": not amsgrad, "masters": True, "anchors": True}
    for i, value in enumerate(values):
        check_float(op, f"values[{i}]", value)
        for name in ("grads", "exp_avgs", "exp_avg_sqs", *optional):
            tensor = lists[name][i]
            if not (optional.get(name) and tensor.numel() == 0):
                check_shape(op, f"{name}[{i}]", tensor, value.shape)
                require(tensor.device == value.device, op, f"{name}[{i}]", f"on {value.device} as values", tensor.device)
            require(tensor.is_contiguous(), op, f"{name}[{i}]", "contiguous", f"strides {tensor.stride()}")
        require(value.is_contiguous(), op, f"values[{i}]", "contiguous", f"strides {value.stride()}")
        layout = Layout(*layouts[5 * i : 5 * i + 5])
        if layout.kind != DENSE:
            check_scatter(denses[i], indices[i], layout, value, op=f"{op}[{i}]")
