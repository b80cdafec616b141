"""Functional ops on compact tensors: checks, schemas, fakes. The implementations stand in the folders beside."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import refuse
from . import checks, schemas
from .registry import backend, chosen, interpreted, why_not
from .tokens import Drawn, Tokens, weighed

if TYPE_CHECKING:
    from ..selection import Entries

__all__ = [
    "Drawn", "Tokens", "active_tokens", "adamw_step_", "backend", "chosen", "drawn_tokens", "embedding_grad", "gather", "input_grad",
    "interpreted", "masked_grad_", "scatter_", "sensitivity", "weighed", "weight_grad", "why_not",
]  # fmt: skip

_ops = torch.ops.clm_kernels


def active_tokens(dy: Tensor, energy: float | None = None, *, share: float | None = None) -> Tokens:
    """The tokens that carry the gradient: the fewest rows of `dy` that together hold the part `energy` of its squared norm.

    Ranked by squared norm, ties by position. A row of zeros, as padding has it, is never active. If `dy` holds an inf or a NaN
    every token is, so that it goes where it would have gone. All implementations find the same tokens: squared norms are summed
    in float64, and compared as whole numbers, 2^30 for the largest.

    Args:
        dy: ``(T, out)``, gradient of a layer's output.
        energy: in (0, 1]; 1 takes every row but those of zeros.
        share: in place of it, the part of all T tokens that is taken, in (0, 1].

    Returns:
        Their ascending indices ``(T,)`` and their count, both on dy's device.

    Raises:
        ValueError: if not one of `energy` and `share` is given, or is out of range.
    """
    if (energy is None) == (share is None):
        refuse("active_tokens", "energy and share", "given one without the other", "both" if energy is not None else "none")
    return Tokens(*_ops.active_tokens(dy.detach(), share if energy is None else energy, energy is None))


def drawn_tokens(dy: Tensor, noise: float, start: Tensor | None = None) -> Drawn:
    """Tokens drawn by chance so that sums over them, each with its weight, are in the mean those over all tokens.

    A row whose norm n is at least the level t is active with weight 1; another one with the chance n / t, and then weighs t / n.
    The expected squared error that this adds to `dy` is the sum of ``n (t - n)`` over these; t is the largest for which it is at
    most `noise` times dy's squared norm. Among all chances that leave as many tokens in the mean these give the least error
    (importance sampling by norm; of activation gradients, arXiv 2402.17227). They are drawn at even distances along the norms, so that their
    number is the mean, give or take one. A row of zeros is never active; if `dy` holds an inf or a NaN every row is. All
    implementations draw the same tokens: norms are whole numbers, 2^18 for the largest.

    Args:
        dy: ``(T, out)``, gradient of a layer's output.
        noise: in [0, 1); 0 takes every row but those of zeros.
        start: where the first distance begins, a float64 number in [0, 1) on dy's device; by chance by default.

    Returns:
        Their ascending indices ``(T,)``, their count and their weights, all on dy's device. `weighed` puts the weights into dy.

    Raises:
        ValueError: if `noise` is out of range, or `start` is no such tensor.
    """
    start = torch.rand((), dtype=torch.float64, device=dy.device) if start is None else start
    return Drawn(*_ops.drawn_tokens(dy.detach(), noise, start))


def input_grad(dy: Tensor, weight: Tensor, tokens: Tokens) -> Tensor:
    """Gradient of a linear layer's input from active tokens alone: ``dy @ weight`` there, zeros elsewhere.

    Args:
        dy: ``(T, out)``, gradient of the output.
        weight: ``(out, in)``, of dy's dtype.
        tokens: as `active_tokens` gives them.

    Returns:
        ``(T, in)``, of dy's dtype.

    Raises:
        ValueError: if shapes, dtypes or devices do not fit.
    """
    return _ops.input_grad(dy.detach(), weight.detach(), *tokens)


def weight_grad(
    dy: Tensor, x: Tensor, entries: Entries, dtype: torch.dtype | None = None, tokens: Tokens | None = None
) -> Tensor:
    """Compact gradient of a weight used as ``y = x @ weight.T``: the selected entries of ``dy.T @ x``.

    The dense gradient is never built. Sums over tokens are kept in float32 (float64 for float64).

    Args:
        dy: ``(T, out)``, gradient of the output. For rows it may be sliced already: ``(T, R)``.
        x: ``(T, in)``, the input, of dy's dtype. For columns it may be sliced already: ``(T, C)``.
        entries: selected entries of the ``(out, in)`` weight, on dy's device.
        dtype: of the result; dy's by default.
        tokens: those that count, as `active_tokens` gives them; all by default.

    Returns:
        Compact gradient: rows ``(R, in)``, columns ``(out, C)``, blocks ``(B, bm, bn)``, elements ``(nnz,)``.

    Raises:
        ValueError: if shapes, dtypes or devices do not fit.
    """
    return _ops.weight_grad(dy, x, entries._held, entries.layout, dtype or dy.dtype, *(tokens or ()))


def embedding_grad(dy: Tensor, ids: Tensor, entries: Entries, dtype: torch.dtype | None = None) -> Tensor:
    """Compact gradient of the selected rows of an embedding; the same bits at every run for repeated ids.

    Args:
        dy: ``(T, H)``, gradient of the looked-up rows.
        ids: ``(T,)``, int32 or int64; an id that is not selected, or negative, adds nothing.
        entries: selected rows of the ``(V, H)`` weight, on dy's device.
        dtype: of the result; dy's by default.

    Returns:
        ``(R, H)``.

    Raises:
        ValueError: if the entries are not rows, or shapes, dtypes or devices do not fit.
    """
    return _ops.embedding_grad(dy, ids, entries._held, entries.layout, dtype or dy.dtype)


def gather(dense: Tensor, entries: Entries) -> Tensor:
    """The selected entries of a dense tensor, an exact copy.

    Args:
        dense: ``(rows, columns)``, of the shape that the entries are of.
        entries: what is copied, on dense's device.

    Returns:
        Compact, of ``entries.compact_shape`` and dense's dtype.

    Raises:
        ValueError: if shapes or devices do not fit.
    """
    return _ops.gather(dense, entries._held, entries.layout)


def scatter_(dense: Tensor, entries: Entries, values: Tensor) -> Tensor:
    """Writes compact values into a dense tensor at the selected entries, in place, and returns it.

    Args:
        dense: ``(rows, columns)``, of the shape that the entries are of.
        entries: where is written, on dense's device.
        values: of ``entries.compact_shape`` and dense's dtype.

    Raises:
        ValueError: if shapes, dtypes or devices do not fit.
    """
    _ops.scatter_(dense, entries._held, entries.layout, values)
    return dense


def masked_grad_(grad: Tensor, dense_grad: Tensor, entries: Entries, scale: float = 1.0) -> Tensor:
    """Adds ``scale`` times the selected entries of a dense gradient to the compact `grad`, in place.

    For a weight that no patched layer covers: autograd has just made its dense gradient, which the caller
    frees right after. Entries that are not selected are not read.

    Args:
        grad: compact, changed in place; any floating dtype.
        dense_grad: of the weight's shape.
        entries: those that `grad` is of, on its device.
        scale: the inverse of a loss scale, for instance.

    Returns:
        0-dim float32: 1 if a selected entry was inf or NaN, else 0 (torch's ``found_inf``).

    Raises:
        ValueError: if shapes, dtypes or devices do not fit.
    """
    return _ops.masked_grad_(grad, dense_grad, entries._held, entries.layout, scale)


def sensitivity(dy: Tensor, x: Tensor, kind: str, weights: Tensor | None = None) -> Tensor:
    """Squared norms of the rows or columns of each example's weight gradient, summed over the examples.

    That is the diagonal empirical Fisher (Kunstner et al., arXiv 1905.12558, equation 3) of whole rows or columns of a
    weight used as ``y = x @ weight.T``. For one example with T tokens its gradient is ``G = dy.T @ x``; ``G @ G.T`` has
    the diagonal ``diag(dy.T (x x.T) dy)``, a row each, and ``G.T @ G`` ``diag(x.T (dy dy.T) x)``, a column each.

    Through T x T Gram matrices G is never built: ``B T^2 (in + out)`` multiplications and ``4 B T^2`` bytes, instead of
    ``B T in out`` and ``4 B in out``. Beyond ``T = in out / (in + out)`` tokens (614 for 3072 x 768) an example's G would
    take fewer multiplications, beyond ``T^2 = in out`` less memory too; this op stays with Gram matrices.

    Args:
        dy: ``(B, T, out)``, gradient of each example's own loss.
        x: ``(B, T, in)``, the input, of dy's dtype.
        kind: ``"rows"`` or ``"columns"`` of the ``(out, in)`` weight.
        weights: ``(B, T)``, of any real dtype, that multiply each token's share of the gradient; all 1 by default.

    Returns:
        ``(out,)`` for rows, ``(in,)`` for columns, float32 (float64 for float64). Not differentiable.

    Raises:
        ValueError: if kind, shapes, dtypes or devices do not fit.
    """
    return _ops.sensitivity(dy.detach(), x.detach(), kind, None if weights is None else weights.detach())


def adamw_step_(
    values: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    max_exp_avg_sqs: list[Tensor],
    masters: list[Tensor],
    anchors: list[Tensor],
    denses: list[Tensor],
    indices: list[Tensor],
    layouts: list[int],
    settings: Tensor,
    *,
    amsgrad: bool = False,
    maximize: bool = False,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
    clip: Tensor | None = None,
) -> None:
    """One AdamW step of all parameters in one call: update the values, scatter them into the dense weights.

    All lists run over the parameters. An empty tensor stands for "this parameter has none". Source: Loshchilov &
    Hutter, arXiv 1711.05101, algorithm 2; arithmetic in float32 (float64 for float64).

    Args:
        values: compact values, or whole ordinary parameters; changed in place.
        grads: their gradients; divided in place by `grad_scale` where it is given.
        exp_avgs, exp_avg_sqs: moments, changed in place.
        max_exp_avg_sqs: running maxima of the second moment, for `amsgrad`.
        masters: float32 master values of lower-precision values, changed in place.
        anchors: values that weight decay pulls toward; without one it pulls toward zero.
        denses: the dense weights, changed in place at the selected entries only.
        indices: index of each parameter's entries.
        layouts: ``entries.layout`` of each parameter, one after the other (5 ints each).
        settings: ``(parameters, 6)`` float64: lr, beta1, beta2, eps, weight_decay, step (counted from 1); on the CPU, or
            on values' device, where a GPU reads it without waiting for the host.
        amsgrad: divide by the running maxima of the second moment.
        maximize: go up the gradient.
        grad_scale: 0-dim loss scale that the gradients still carry.
        found_inf: 0-dim; if it is not 0, nothing is changed.
        clip: 0-dim factor of all gradients, after `grad_scale`; they themselves are not written.

    Raises:
        ValueError: if lists, shapes, dtypes or devices do not fit.
    """
    lists = (grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, masters, anchors, denses, indices)
    if not values:
        checks.check_adamw_step(values, dict(zip(schemas.LISTS, lists)), layouts, settings, amsgrad)
        return
    _ops.adamw_step_(values, *lists, layouts, settings, amsgrad, maximize, grad_scale, found_inf, clip)
