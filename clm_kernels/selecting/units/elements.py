"""Single elements, or blocks, by the squared gradient: weight by weight, so that never all scores are there at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from ...defaults import BLOCK, DENSITY
from ...selection import Entries, Selection
from ..scores.positions import Positions
from ..scores.rules import squared_gradient
from ..scores.sensitivity import eligible_weights, score_pass

MEMORY = 1 << 28  # bytes of scores at a time


def top_entries(
    model: nn.Module,
    batches: Sequence[Mapping[str, Tensor]],
    *,
    density: float = DENSITY,
    kind: str = "elements",
    block: tuple[int, int] = (BLOCK, BLOCK),
    layers: str = "all",
    positions: Positions | None = None,
    memory: int = MEMORY,
) -> Selection:
    """The elements or blocks with the largest empirical Fisher information, over all eligible weights.

    The gradient of every example is made for one weight at a time, and squared and summed. As many weights are scored in
    one pass over the batches as fit into `memory`; of each, only what is still among the best so far is kept.

    Args:
        model: a transformers classifier; left as it was.
        batches: with ``labels``, on the model's device; read once for each group of weights.
        density: share of the eligible weights' entries, in (0, 1].
        kind: ``"elements"`` or ``"blocks"``.
        block: height and width, for blocks.
        layers: ``"all"``, ``"upper half"`` or ``"upper third"``.
        positions: which tokens count; all by default.
        memory: bytes of scores at a time; at least one weight's are held.

    Raises:
        ValueError: for arguments out of range, or weights that the blocks do not divide.
    """
    if kind not in ("elements", "blocks"):
        raise ValueError(f"top_entries: kind must be elements or blocks, got {kind!r}")
    if not 0.0 < density <= 1.0:
        raise ValueError(f"top_entries: density must lie in (0, 1], got {density}")
    eligible = eligible_weights(model, layers)
    size = block if kind == "blocks" else (1, 1)
    units = sum(Entries.of(kind, [], tuple(m.weight.shape), size if kind == "blocks" else None).units for m in eligible.values())
    best = _Best(round(density * units))
    if best.count == 0:
        raise ValueError(f"top_entries: density must allow at least one of {units} {kind}, got {density}")
    for part in _parts(eligible, memory):
        scores: dict[str, Tensor] = {}

        def add(name: str, module: nn.Module, x: Tensor, dy: Tensor, weights: Tensor | None, scores=scores) -> None:
            squared = squared_gradient(module, x, dy, weights, size)
            scores[name] = scores[name].add_(squared) if name in scores else squared

        score_pass(model, batches, part, add, positions)
        for name in part:
            if name in scores:
                best.offer(name, scores.pop(name).flatten())
    shapes = {name: tuple(module.weight.shape) for name, module in eligible.items()}
    chosen = {name: Entries.of(kind, index, shapes[name], block if kind == "blocks" else None) for name, index in best.take()}
    return Selection({name: chosen[name] for name in eligible if name in chosen})


def _parts(eligible: Mapping[str, nn.Module], memory: int) -> Iterator[dict[str, nn.Module]]:
    """The weights, in groups whose scores fit into `memory`."""
    part, used = {}, 0
    for name, module in eligible.items():
        needed = 4 * module.weight.numel()
        if part and used + needed > memory:
            yield part
            part, used = {}, 0
        part[name], used = module, used + needed
    yield part


class _Best:
    """The `count` best units seen so far; among equals those seen first."""

    def __init__(self, count: int):
        self.count = count
        self.names: list[str] = []
        self.scores, self.origins, self.index = (
            torch.empty(0),
            torch.empty(0, dtype=torch.int64),
            torch.empty(0, dtype=torch.int64),
        )

    def offer(self, name: str, scores: Tensor) -> None:
        scores = scores.cpu()
        threshold = self.scores[-1] if len(self.scores) >= self.count else -torch.inf
        index = (scores > threshold).nonzero().flatten()
        self.names.append(name)
        origins = torch.full_like(index, len(self.names) - 1)
        merged = torch.cat([self.scores.to(scores.dtype), scores[index]])
        order = merged.argsort(descending=True, stable=True)[: self.count]
        self.scores = merged[order]
        self.origins, self.index = torch.cat([self.origins, origins])[order], torch.cat([self.index, index])[order]

    def take(self) -> Iterator[tuple[str, Tensor]]:
        for number, name in enumerate(self.names):
            index = self.index[self.origins == number]
            if index.numel():
                yield name, index
