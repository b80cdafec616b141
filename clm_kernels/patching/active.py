"""Active tokens of a model's layers: which linear layer keeps how much of its gradient, and what share of the tokens that takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from ..energy import Energy, energies
from ..errors import require
from ..models.roles import linears_by_role
from ..ops.schemas import direct

Choose = Callable[[Tensor, float], tuple[Tensor, Tensor]]


def by_energy(dy: Tensor, energy: float) -> tuple[Tensor, Tensor]:
    """`ops.active_tokens` of a layer's gradient ``(T, out)``: their indices and their count."""
    return direct("active_tokens", dy)(dy, energy, False)


class Active:
    """Of one linear layer: its energy, and how many tokens have come and been kept since they were last counted.

    Attributes:
        energy: below 1.
        tokens: those of the model, which choose.
    """

    def __init__(self, energy: float, tokens: ActiveTokens):
        self.energy, self.tokens = energy, tokens
        self.came = 0
        self.kept: Tensor | None = None  # on the device, which nobody waits for

    def choose(self, dy: Tensor) -> tuple[Tensor, Tensor]:
        """Of ``dy`` ``(T, out)`` the active tokens."""
        index, count = self.tokens.choose(dy, self.energy)
        if not torch.compiler.is_compiling():
            self.came += dy.shape[0]
            self.kept = count.clone() if self.kept is None else self.kept.to(count.device).add_(count)
        return index, count


def active_shares(model: nn.Module) -> dict[str, float]:
    """`ActiveTokens.shares` of a patched model, which goes on counting; empty where no layer leaves tokens out."""
    layers = (getattr(module, "_active", None) for module in model.modules())
    found = next((active.tokens for active in layers if isinstance(active, Active)), None)
    return {} if found is None else found.shares(reset=False)


class ActiveTokens(Mapping[str, Active]):
    """Name of each linear layer whose backward keeps active tokens alone -> its `Active`.

    Attributes:
        energies: role -> energy.
        choose: which tokens are active in a layer's gradient; `by_energy`.
    """

    def __init__(self, energy: Energy):
        self.energies = energies(energy)
        self.choose: Choose = by_energy
        self._layers: dict[str, Active] = {}

    def __getitem__(self, name: str) -> Active:
        return self._layers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def take(self, model: nn.Module) -> Iterator[tuple[str, nn.Module, Active]]:
        """Each linear layer of the model that some tokens may be left out of, with its new `Active`.

        Raises:
            ValueError: if some should be, and the model has no linear layer in numbered layers.
        """
        found = linears_by_role(model)
        least = min(self.energies.values())
        expected = f"1 for a {type(model).__name__}, which has no linear layer in numbered layers"
        require(bool(found) or least == 1, "patch", "energy", expected, least)
        for name, (module, roles) in found.items():
            energy = max(self.energies[role] for role in roles)
            if energy < 1:
                self._layers[name] = Active(energy, self)
                yield name, module, self._layers[name]

    def shares(self, reset: bool = True) -> dict[str, float]:
        """Name -> share of its tokens that were active since the last reset; layers whose backward has not run are left out.

        A GPU's host waits for it. Under `torch.compile` nothing is counted.
        """
        return {name: kept / came for name, (kept, came) in self.counts(reset).items()}

    def counts(self, reset: bool = True) -> dict[str, tuple[int, int]]:
        """Name -> how many of its tokens were active and how many there were, as `shares` tells their ratio."""
        found = {name: (int(layer.kept), layer.came) for name, layer in self._layers.items() if layer.kept is not None}
        if reset:
            for layer in self._layers.values():
                layer.came, layer.kept = 0, None
        return found
