"""What a unit of one weight is worth: rules that score rows, columns and blocks of a linear weight, and embedding rows.

Each takes the layer, its input ``(B, T, in)`` (of an embedding the ids, ``(B, T, 1)``), the gradient of its output
``(B, T, out)`` from each example's own loss, the kind of unit (of the stored tensor: transformers' ``Conv1D`` stores
``(in, out)``), weights of the positions ``(B, T)``, and the height and width of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from ... import ops
from ...models.linear import is_conv1d
from ...models.structure import matrix_shape, weight_of
from ...ops.layout import Layout
from ...selection import Entries

Block = tuple[int, int]
Rule = Callable[[nn.Module, Tensor, Tensor, str, Tensor | None, Block], Tensor]


def fisher(module: nn.Module, x: Tensor, dy: Tensor, kind: str, positions: Tensor | None, block: Block) -> Tensor:
    """Squared norm of the unit's gradient, summed over the examples: the diagonal of the empirical Fisher matrix."""
    if isinstance(module, nn.Embedding):
        rows, gradients = row_gradients(module, x, dy, positions)
        return _sum_of_rows(module, rows, gradients.square().sum(1))
    if kind == "blocks":
        return squared_gradient(module, x, dy, positions, block).flatten()
    first, second = (x, dy) if is_conv1d(module) else (dy, x)
    return ops.sensitivity(first, second, kind, positions)


def saliency(module: nn.Module, x: Tensor, dy: Tensor, kind: str, positions: Tensor | None, block: Block) -> Tensor:
    """How much the loss would change to first order if the unit were 0: the sum over the examples of ``|sum of W * G|``.

    For an output that is ``|sum over t of dy * y|``, for an input ``|sum over t of x * dx|``. Source: Molchanov et al.,
    arXiv 1611.06440, equation 7.
    """
    if isinstance(module, nn.Embedding):
        rows, gradients = row_gradients(module, x, dy, positions)
        return _sum_of_rows(module, rows, (weight_of(module).detach()[rows] * gradients).sum(1).abs())
    if kind == "blocks":
        weight = weight_of(module).detach()
        total: Any = sum(in_blocks(weight * gradient, block).abs() for gradient in gradients_of(module, x, dy, positions))
        return total.flatten()
    weight = weight_of(module).detach().to(x.dtype)
    weight = weight.T if is_conv1d(module) else weight  # (out, in)
    of_outputs = (kind == "rows") != is_conv1d(module)
    terms = (dy * (x @ weight.T) if of_outputs else x * (dy @ weight)).float()  # (B, T, units)
    if positions is not None:
        terms = terms * positions[..., None]
    return terms.sum(1).abs().sum(0)


RULES: dict[str, Rule] = {"fisher": fisher, "saliency": saliency}


def magnitude(module: nn.Module, kind: str, block: Block) -> Tensor:
    """Squared norm of the unit itself; asks for no data."""
    squared = weight_of(module).detach().float().square()
    return in_blocks(squared, block).flatten() if kind == "blocks" else squared.sum(1 if kind == "rows" else 0)


def chance(module: nn.Module, kind: str, generator: torch.Generator, block: Block) -> Tensor:
    """Nothing but chance, as a control."""
    units = Layout.of(kind, matrix_shape(module), block if kind == "blocks" else None).units
    return torch.rand(units, generator=generator).to(weight_of(module).device)


def gradients_of(module: nn.Module, x: Tensor, dy: Tensor, positions: Tensor | None) -> Iterator[Tensor]:
    """The stored weight's gradient of one example after the other: a batch of gradients would be a batch of weights."""
    first, second = (_wide(part) for part in ((x, dy) if is_conv1d(module) else (dy, x)))
    first = _weighted(first, positions)
    for a, b in zip(first, second):
        yield a.T @ b


def squared_gradient(module: nn.Module, x: Tensor, dy: Tensor, positions: Tensor | None, block: Block) -> Tensor:
    """Sum over the examples of the squared gradient, each block of the stored tensor summed up: its grid."""
    total = _wide(dy).new_zeros(weight_of(module).shape)
    for gradient in gradients_of(module, x, dy, positions):
        total.addcmul_(gradient, gradient)
    return in_blocks(total, block)


def in_blocks(dense: Tensor, block: Block) -> Tensor:
    """The sum over each block: its grid."""
    height, width = block
    return dense if block == (1, 1) else dense.unflatten(1, (-1, width)).unflatten(0, (-1, height)).sum((1, 3))


def row_gradients(module: nn.Embedding, ids: Tensor, dy: Tensor, positions: Tensor | None) -> tuple[Tensor, Tensor]:
    """Each example's own gradient of each row that it reads: the rows ``(n,)``, and their gradients ``(n, H)``.

    Raises:
        ValueError: for an embedding that does more than multiply its rows by a number.
    """
    ids = ids[..., 0]
    examples = torch.arange(ids.shape[0], device=ids.device)[:, None] * module.num_embeddings
    keys, where = torch.unique(ids + examples, return_inverse=True)  # a row of two examples counts twice
    dy = _weighted(_wide(dy), positions).flatten(0, 1) * _scale(module, ids)
    own = Entries.everything("rows", (len(keys), dy.shape[1])).to(dy.device)
    rows, gradients = keys % module.num_embeddings, ops.embedding_grad(dy, where.flatten(), own)
    if module.padding_idx is not None:  # which autograd leaves without a gradient
        gradients = gradients * (rows != module.padding_idx)[:, None]
    return rows, gradients


def _sum_of_rows(module: nn.Embedding, rows: Tensor, values: Tensor) -> Tensor:
    """``(V,)``: of each row the sum of its values, the same bits at every run."""
    every = Entries.everything("rows", (module.num_embeddings, 1)).to(rows.device)
    return ops.embedding_grad(values[:, None], rows, every)[:, 0]


def _scale(module: nn.Embedding, ids: Tensor) -> float:
    """What the embedding multiplies its rows by, as Gemma's does."""
    if type(module).forward is nn.Embedding.forward:
        return 1.0
    with torch.no_grad():
        rows, output = embedding(ids, module.weight).double(), module.forward(ids).double()
    scale = ((rows * output).sum() / rows.square().sum()).item()
    if not (output - scale * rows).norm() <= 0.01 * output.norm():  # far above rounding
        raise ValueError(
            f"sensitivity: the input embedding must give its rows, or its rows times a number, got a {type(module).__name__}"
        )
    return scale


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float64 if tensor.dtype == torch.float64 else torch.float32)


def _weighted(dy: Tensor, positions: Tensor | None) -> Tensor:
    return dy if positions is None else dy * positions[..., None].to(dy.dtype)
