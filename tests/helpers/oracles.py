"""Truth by other means than the package's own: plain indexing of a dense tensor, bit patterns, and buffers of sentinels."""

from __future__ import annotations

from collections.abc import Callable

import models
import torch
from torch import Tensor, nn

from clm_kernels import Entries

KINDS = ("rows", "columns", "blocks", "elements")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
SENTINEL, PAD = -77.0, 5  # an odd offset: no vector load is aligned


def entries_of(kind: str, shape: tuple[int, int], which: str, block: tuple[int, int] | None = None) -> Entries:
    """None, some (a seeded half, at least one), or all of a weight's units."""
    every = Entries.everything(kind, shape, block if kind == "blocks" else None)
    count = {"none": 0, "some": (every.units + 1) // 2, "all": every.units}[which]
    index = torch.randperm(every.units, device="cpu")[:count]
    return Entries.of(kind, index, shape, every.block).to(torch.get_default_device())


def _views(dense: Tensor, entries: Entries) -> list[Tensor]:
    """A view of the dense tensor for each selected row, column or block."""
    index = entries.index.tolist()
    if entries.kind == "rows":
        return [dense[i] for i in index]
    if entries.kind == "columns":
        return [dense[:, i] for i in index]
    (bm, bn), across = entries.block, dense.shape[1] // entries.block[1]
    return [dense[i // across * bm :, i % across * bn :][:bm, :bn] for i in index]


def pick(dense: Tensor, entries: Entries) -> Tensor:
    """The selected entries of a dense tensor, compact."""
    if entries.index.numel() == 0:
        return dense.new_zeros(entries.compact_shape)
    if entries.kind == "elements":
        return dense[torch.unravel_index(entries.index.long(), dense.shape)]
    return torch.stack(_views(dense, entries), dim=1 if entries.kind == "columns" else 0)


def place(dense: Tensor, entries: Entries, compact: Tensor) -> Tensor:
    """A copy of the dense tensor that holds `compact` at the selected entries."""
    placed = dense.clone()
    if entries.kind == "elements" and entries.index.numel():
        placed[torch.unravel_index(entries.index.long(), dense.shape)] = compact
    elif entries.index.numel():
        for view, unit in zip(_views(placed, entries), compact.unbind(1 if entries.kind == "columns" else 0), strict=True):
            view.copy_(unit)
    return placed


def bits(tensor: Tensor) -> Tensor:
    """The tensor's bit patterns as integers: NaNs and signed zeros compare too."""
    return tensor.detach().contiguous().view(_BITS[tensor.element_size()])


def assert_same_bits(actual: Tensor, expected: Tensor) -> None:
    assert actual.dtype == expected.dtype
    assert torch.equal(bits(actual), bits(expected))


def framed(tensor: Tensor) -> tuple[Tensor, Callable[[], None]]:
    """A contiguous copy inside a buffer of sentinels, and a check that they are still there."""
    size = tensor.numel()
    buffer = torch.full((size + 2 * PAD,), SENTINEL, dtype=tensor.dtype)
    view = buffer[PAD : PAD + size].view(tensor.shape).copy_(tensor)

    def check() -> None:
        assert bool((buffer[:PAD] == SENTINEL).all() and (buffer[PAD + size :] == SENTINEL).all()), "written outside the tensor"

    return view, check


def spread(tensor: Tensor) -> Tensor:
    """A non-contiguous copy: every other column of a wider buffer of sentinels, from an odd offset."""
    wide = torch.full((*tensor.shape[:-1], 2 * tensor.shape[-1] + 1), SENTINEL).to(tensor.dtype)
    return wide[..., 1::2].copy_(tensor)


def everything_about(model: nn.Module) -> dict:
    """All that measuring must leave alone."""
    return {
        "weights": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "flags": [parameter.requires_grad for parameter in model.parameters()],
        "grads": [None if parameter.grad is None else parameter.grad.clone() for parameter in model.parameters()],
        "modes": [module.training for module in model.modules()],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in model.modules()],
        "instances": [module.__dict__.get("forward") for module in model.modules()],
    }


def assert_as_before(model: nn.Module, before: dict) -> None:
    after = everything_about(model)
    weights = after.pop("weights")
    assert weights.keys() == before["weights"].keys()
    for name, tensor in weights.items():
        assert_same_bits(tensor, before["weights"][name])
    for grad, was in zip(after.pop("grads"), before["grads"], strict=True):
        assert (grad is None) == (was is None) and (grad is None or torch.equal(grad, was))
    for name, value in after.items():
        assert value == before[name], name


def lived_in(model: nn.Module) -> nn.Module:
    """Flags, modes and gradients such as a user's model may have."""
    torch.manual_seed(5)
    for i, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(i % 3 > 0)
        parameter.grad = torch.randn_like(parameter) if i % 3 == 1 else None
    model.train()
    for i, module in enumerate(model.modules()):
        module.training = i % 4 != 1
    return model


def batches(model: nn.Module, task: str = "sequence", count: int = 2) -> list[dict]:
    """Batches of `models.batch`; token labels with places that have none."""
    made = [models.batch(model, seed=seed, task=task) for seed in range(count)]
    for batch in made if task == "token" else []:
        batch["labels"][batch["attention_mask"] == 0] = -100
        batch["labels"][:, 0] = -100
    return made
