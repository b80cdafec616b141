"""Active tokens of a model's layers: which linear layer keeps how much of its gradient, and what share of the tokens that takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..energy import Energy, energies
from ..errors import require
from ..models.roles import linears_by_role
from ..ops.schemas import direct
from ..ops.tokens import Drawn, weighed

Choose = Callable[[Tensor, float], tuple[Tensor, ...]]


def by_energy(dy: Tensor, energy: float) -> tuple[Tensor, Tensor]:
    """`ops.active_tokens` of a layer's gradient ``(T, out)``: their indices and their count."""
    return direct("active_tokens", dy)(dy, energy, False)


def by_noise(dy: Tensor, noise: float) -> tuple[Tensor, Tensor, Tensor]:
    """`ops.drawn_tokens` of a layer's gradient ``(T, out)``: their indices, their count, and the weights of all tokens."""
    start = torch.rand((), dtype=torch.float64, device=dy.device)
    return direct("drawn_tokens", dy)(dy, noise, start)


class Known(NamedTuple):
    """Tokens that are told before the forward, as the ops take them, and their indices alone."""

    index: Tensor
    count: Tensor
    own: Tensor


class Active:
    """Of one linear layer: which tokens it keeps, and how many have come and been kept since they were last counted.

    Attributes:
        part: its energy, below 1, or the noise, above 0.
        tokens: those of the model, which choose.
    """

    def __init__(self, part: float, tokens: ActiveTokens):
        self.part, self.tokens = part, tokens
        self.came = 0
        self.kept: Tensor | None = None  # on the device, which nobody waits for

    def known(self, tokens: int) -> Known | None:
        """The active ones of so many tokens, where that is told before the forward."""
        told = self.tokens.told
        return None if told is None or told.index.shape[0] != tokens else told

    def choose(self, dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of ``dy`` ``(T, out)`` the active tokens, index and count, and dy with their weights in it, if they have any."""
        index, count, *weight = self.tokens.choose(dy, self.part)
        rows = weighed(dy, Drawn(index, count, *weight)) if weight else dy
        self.note(dy.shape[0], count)
        return index, count, rows

    def note(self, came: int, count: Tensor) -> None:
        """Counts the tokens of one backward."""
        if not torch.compiler.is_compiling():
            self.came += came
            self.kept = count.clone() if self.kept is None else self.kept.to(count.device).add_(count)


def active_shares(model: nn.Module) -> dict[str, float]:
    """`ActiveTokens.shares` of a patched model, which goes on counting; empty where no layer leaves tokens out."""
    found = next((layer.tokens for layer in _layers(model)), None)
    return {} if found is None else found.shares(reset=False)


@contextmanager
def uncounted(model: nn.Module) -> Iterator[None]:
    """Inside, the tokens of a patched model are not counted."""
    before = [(layer, layer.came, None if layer.kept is None else layer.kept.clone()) for layer in _layers(model)]
    try:
        yield
    finally:
        for layer, came, kept in before:
            layer.came, layer.kept = came, kept


def _layers(model: nn.Module) -> Iterator[Active]:
    layers = (getattr(module, "_active", None) for module in model.modules())
    return (layer for layer in layers if isinstance(layer, Active))


class ActiveTokens(Mapping[str, Active]):
    """Name of each linear layer whose backward keeps active tokens alone -> its `Active`.

    Attributes:
        energies: role -> energy.
        noise: of each layer; above 0 tokens are drawn in place of being chosen.
        choose: which tokens are active in a layer's gradient; `by_energy` or `by_noise`.
        told: those that `only` has told.
    """

    def __init__(self, energy: Energy, noise: float = 0.0):
        self.energies, self.noise = energies(energy), noise
        require(0 <= noise < 1, "patch", "noise", "in [0, 1)", repr(noise))
        one = not noise or min(self.energies.values()) == 1
        require(one, "patch", "energy and noise", "given one without the other", f"{energy!r} and {noise!r}")
        self.choose: Choose = by_noise if noise else by_energy
        self.told: Known | None = None
        self._layers: dict[str, Active] = {}

    @contextmanager
    def only(self, tokens: Tensor) -> Iterator[None]:
        """Forwards inside are followed by backwards in which these tokens alone take part, in place of what would be chosen.

        For tokens that are known beforehand, as the words that tell a label. Of a layer's input only theirs is kept for the
        backward, so activations take less memory. A layer that is given another number of tokens, as DeBERTa's projections of
        positions, chooses as it did; with gradient checkpointing the backward must run inside too. A GPU's host waits once.

        Args:
            tokens: bool, of as many numbers as the batch has tokens: ``(texts, length)``.

        Raises:
            ValueError: for another dtype, or where no layer leaves tokens out (patched with an energy of 1).
        """
        require(tokens.dtype == torch.bool, "only", "tokens", "bool, one a token of the batch", tokens.dtype)
        require(len(self) > 0, "only", "the model", "patched with an energy below 1", "one whose layers leave no token out")
        active, before = tokens.detach().flatten(), self.told
        own, others = active.nonzero().flatten(), (~active).nonzero().flatten()
        self.told = Known(torch.cat([own, others]), active.sum(), own)
        try:
            yield
        finally:
            self.told = before

    def __getitem__(self, name: str) -> Active:
        return self._layers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    @property
    def option(self) -> tuple[str, int]:
        """What decides, and which value of it leaves no token out."""
        return ("noise", 0) if self.noise else ("energy", 1)

    def take(self, model: nn.Module) -> Iterator[tuple[str, nn.Module, Active]]:
        """Each linear layer of the model that some tokens may be left out of, with its new `Active`.

        Raises:
            ValueError: if some should be, and the model has no linear layer in numbered layers.
        """
        found = linears_by_role(model)
        name, all_of_it = self.option
        least = self.noise or min(self.energies.values())
        expected = f"{all_of_it} for a {type(model).__name__}, which has no linear layer in numbered layers"
        require(bool(found) or least == all_of_it, "patch", name, expected, least)
        for name, (module, roles) in found.items():
            part = self.noise or max(self.energies[role] for role in roles)
            if part < 1:
                self._layers[name] = Active(part, self)
                yield name, module, self._layers[name]

    def shares(self, reset: bool = True) -> dict[str, float]:
        """Name -> share of its tokens that were active since the last reset; layers whose backward has not run are left out.

        A GPU's host waits for it. Under `torch.compile` nothing is counted.
        """
        return {name: kept / came for name, (kept, came) in self.counts(reset).items()}

    def counts(self, reset: bool = True) -> dict[str, tuple[int, int]]:
        """Name -> how many of its tokens were active and how many there were, as `shares` tells their ratio."""
        came = {name: (layer.kept, layer.came) for name, layer in self._layers.items() if layer.kept is not None}
        at_once = (
            torch.stack([kept.to(next(iter(came.values()))[0].device) for kept, _ in came.values()]).tolist() if came else []
        )
        found = {name: (kept, layer[1]) for (name, layer), kept in zip(came.items(), at_once)}
        if reset:
            for layer in self._layers.values():
                layer.came, layer.kept = 0, None
        return found
