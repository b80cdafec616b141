"""Active tokens by a brute force, and a model that trains with them by plain torch."""

import math
from fractions import Fraction
from types import MethodType

import torch
import torch.nn.functional as F

from clm_kernels import ops
from clm_kernels.energy import energies
from clm_kernels.models.linear import is_conv1d
from clm_kernels.models.roles import linears_by_role

WHOLE = 1 << 30  # what the largest norm counts as


def held(dy):
    """Whole-number energy of each row, from its exactly summed squares."""
    norms = [math.fsum(value * value for value in row) for row in dy.double().tolist()]
    largest = max(norms, default=0.0)
    return [max(1, int(norm / largest * WHOLE + 0.5)) if norm else 0 for norm in norms]


def brute_force(dy, energy=None, share=None):
    """One row after the other, from the largest down, until enough is held."""
    rows = held(dy)
    ranked = sorted((row for row, energy_of in enumerate(rows) if energy_of), key=lambda row: -rows[row])  # stable
    if share is not None:
        return sorted(ranked[: math.ceil(share * len(rows))])
    need, taken = max(1, math.ceil(energy * sum(rows))), []
    for row in ranked:
        if sum(rows[each] for each in taken) >= need:
            break
        taken.append(row)
    return sorted(taken)


def drawn_by_brute_force(dy, noise, start):
    """Rows and all weights: the level by trying whole numbers upward, then token by token along the norms, in exact fractions."""
    norms = [math.sqrt(math.fsum(value * value for value in row)) for row in dy.double().tolist()]
    largest = max(norms, default=0.0)
    whole = [max(1, int(norm / largest * (WHOLE >> 12) + 0.5)) if norm else 0 for norm in norms]
    budget = math.floor(noise * float(sum(n * n for n in whole)))
    level, high = 0, 1 << 21
    while high - level > 1:
        middle = (level + high) // 2
        if sum(n * (middle - n) for n in whole if n < middle) <= budget:
            level = middle
        else:
            high = middle
    level, rows, weights, step = max(1, level), [], [0.0] * len(whole), Fraction(int(start * max(1, level)))
    for row, n in enumerate(whole):
        before, step = step, step + (n if n < level else 0)
        if n and (n >= level or step // level > before // level):
            rows.append(row)
            weights[row] = max(1.0, level / n)
    return rows, weights


def simulate(model, energy, only=None):
    """Lets an unpatched model zero, at each linear layer's output, the gradient of inactive rows for x and weight; whole for the bias.

    `only` takes that gradient and the layer's energy, and gives what is left of it.
    """
    by_role = energies(energy)
    for module, roles in linears_by_role(model).values():
        part = max(by_role[role] for role in roles)
        if part < 1:
            module.forward = MethodType(_forward(part, only or _only_active), module)
    return model


def _forward(energy, only):
    def forward(self, x):
        bias = None if self.bias is None else self.bias.detach()
        y = F.linear(x.reshape(-1, x.shape[-1]), self.weight.T if is_conv1d(self) else self.weight, bias)
        if y.requires_grad:
            y.register_hook(lambda dy: only(dy, energy))
        y = y if bias is None else y + (self.bias - bias).to(y.dtype)  # + 0, whose gradient is whole
        return y.view(*x.shape[:-1], y.shape[-1])

    return forward


def _only_active(dy, energy):
    kept = torch.zeros_like(dy)
    active = brute_force(dy, energy)
    kept[active] = dy[active]
    return kept


def record(handle):
    """Active indices, in the order of the backward: from now on, for each choice that a patched model makes."""
    seen, choose = [], handle.active.choose

    def recorded(dy, energy):
        index, count = choose(dy, energy)
        seen.append(index[:count].tolist())
        return index, count

    handle.active.choose = recorded
    return seen


def compact_gradients(handle):
    """Of all that is trained, by name."""
    whole = {name: handle.model.get_parameter(name) for name in handle.whole}
    return {name: parameter.grad.clone() for name, parameter in (handle.values | whole).items() if parameter.grad is not None}


def assert_gradients_as_simulated(dense, handle, rtol=1e-9, atol=1e-12):
    """Relative to the largest entry; key biases have none but rounding errors, hence the second bound."""
    expected = dict(dense.named_parameters(remove_duplicate=False))
    for name, gradient in compact_gradients(handle).items():
        whole = expected[name].grad
        part = ops.gather(whole, handle.values[name].entries) if name in handle.values else whole
        assert (gradient - part).abs().max() <= rtol * whole.abs().max() + atol, name
