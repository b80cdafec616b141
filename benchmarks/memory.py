"""Bytes of gradients and optimizer state for each selected entry, counted over the tensors that are alive."""

from __future__ import annotations

import gc

import torch

import clm_kernels as clm
from clm_kernels.selecting.units.control import random_selection

from .common import keep, row
from .step import minilm

PER_WEIGHT = 4 + 6 * 8  # its step counter and its row of the settings


def live_bytes() -> int:
    """Bytes of all storages that Python can reach."""
    gc.collect()
    storages = {}
    for thing in gc.get_objects():
        if issubclass(type(thing), torch.Tensor):
            for tensor in (thing, thing.grad if thing.is_leaf else None):
                if tensor is not None:
                    storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return sum(storages.values())


def bytes_per_entry(kind: str) -> float:
    model = minilm()
    before = live_bytes()
    selection = random_selection(model, density=0.03, kind=kind)
    clm.patch(model, selection, head=False)
    optimizer = clm.SparseAdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)
    model(input_ids=torch.randint(1000, 30000, (4, 8)), labels=torch.zeros(4, dtype=torch.long)).loss.backward()
    optimizer.step()
    return (live_bytes() - before - PER_WEIGHT * len(selection)) / selection.count


def main() -> list[dict[str, object]]:
    rows = []
    for kind in ("rows", "columns", "blocks", "elements"):
        measured = bytes_per_entry(kind)
        rows.append(
            row(
                f"bytes of values, gradient, state and index an entry ({PER_WEIGHT} bytes a weight aside), 3 % {kind}",
                measured,
                "<= 20",
                measured <= 20.0,
            )
        )
    keep("memory", rows)
    return rows


if __name__ == "__main__":
    main()
