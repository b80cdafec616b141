"""What `SparseAdamW` refuses, with the types of error that torch's AdamW has for it."""

from __future__ import annotations

from numbers import Real

from torch import Tensor


def check_rates(lr: float | Tensor, betas: tuple, eps: float, weight_decay: float) -> None:
    """Raises ValueError for a number out of range, or that is none."""
    if len(betas) != 2 or isinstance(betas[0], Tensor) != isinstance(betas[1], Tensor):
        raise ValueError(f"SparseAdamW: betas must be two numbers or two tensors, got {betas!r}")
    for name, value in {"lr": lr, "eps": eps, "weight_decay": weight_decay}.items():
        if not number(name, value) >= 0.0:
            raise ValueError(f"SparseAdamW: {name} must be at least 0, got {value}")
    for i, beta in enumerate(betas):
        if not 0.0 <= number(f"betas[{i}]", beta) < 1.0:
            raise ValueError(f"SparseAdamW: betas[{i}] must lie in [0, 1), got {beta}")


def check_flags(
    lr: float | Tensor, betas: tuple, foreach: bool | None, capturable: bool, differentiable: bool, fused: bool | None
) -> None:  # fmt: skip
    """Raises for flags that exclude each other in torch's AdamW: ValueError or RuntimeError, as there."""
    if fused and (foreach or differentiable):
        raise RuntimeError(f"SparseAdamW: fused must not be True beside {'foreach' if foreach else 'differentiable'}")
    if differentiable:
        raise ValueError("SparseAdamW: differentiable must be False, got True; use torch.optim.AdamW for that")
    if foreach and not capturable and any(isinstance(value, Tensor) for value in (lr, *betas)):
        raise ValueError("SparseAdamW: lr and betas must be numbers beside foreach=True and capturable=False, got a tensor")


def number(name: str, value: object) -> float:
    """The value of a real number or a tensor of one element.

    Raises:
        ValueError: for anything else, as a string.
    """
    if isinstance(value, Tensor) and value.numel() != 1:
        raise ValueError(f"SparseAdamW: {name} must be a number or a tensor of one element, got shape {tuple(value.shape)}")
    if not isinstance(value, (Real, Tensor)):
        raise ValueError(f"SparseAdamW: {name} must be a number or a tensor of one element, got {value!r}")
    return float(value)
