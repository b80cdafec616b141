"""What a row or a column is worth: rules that score the units of one linear weight.

Each takes the layer, its input ``(B, T, in)``, the gradient of its output ``(B, T, out)`` from each example's own loss, the
kind of unit (of the stored tensor: transformers' ``Conv1D`` stores ``(in, out)``) and weights of the positions ``(B, T)``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .. import ops

Rule = Callable[[nn.Module, Tensor, Tensor, str, Tensor | None], Tensor]


def fisher(module: nn.Module, x: Tensor, dy: Tensor, kind: str, positions: Tensor | None) -> Tensor:
    """Squared norm of the unit's gradient, summed over the examples: the diagonal of the empirical Fisher matrix."""
    first, second = (x, dy) if stored_transposed(module) else (dy, x)
    return ops.sensitivity(first, second, kind, positions)


def saliency(module: nn.Module, x: Tensor, dy: Tensor, kind: str, positions: Tensor | None) -> Tensor:
    """How much the loss would change to first order if the unit were 0: the sum over the examples of ``|sum of W * G|``.

    For an output that is ``|sum over t of dy * y|``, for an input ``|sum over t of x * dx|``. Source: Molchanov et al.,
    arXiv 1611.06440, equation 7.
    """
    weight = module.weight.detach().to(x.dtype)
    weight = weight.T if stored_transposed(module) else weight  # (out, in)
    of_outputs = (kind == "rows") != stored_transposed(module)
    terms = (dy * (x @ weight.T) if of_outputs else x * (dy @ weight)).float()  # (B, T, units)
    if positions is not None:
        terms = terms * positions[..., None]
    return terms.sum(1).abs().sum(0)


RULES: dict[str, Rule] = {"fisher": fisher, "saliency": saliency}


def magnitude(module: nn.Module, kind: str) -> Tensor:
    """Squared norm of the unit itself; asks for no data."""
    return module.weight.detach().float().square().sum(1 if kind == "rows" else 0)


def chance(module: nn.Module, kind: str, generator: torch.Generator) -> Tensor:
    """Nothing but chance, as a control."""
    units = module.weight.shape[0 if kind == "rows" else 1]
    return torch.rand(units, generator=generator).to(module.weight.device)


def stored_transposed(module: nn.Module) -> bool:
    """Whether the weight is stored ``(in, out)``, as transformers' ``Conv1D`` does."""
    return not isinstance(module, nn.Linear)
