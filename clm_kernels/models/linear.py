"""Linear layers, as torch has them and as GPT-2 does: transformers' ``Conv1D`` is one whose weight is stored ``(in, out)``."""

from __future__ import annotations

from torch import nn


def is_linear(module: nn.Module) -> bool:
    """Whether it is a linear layer of either kind."""
    return isinstance(module, nn.Linear) or is_conv1d(module)


def is_conv1d(module: nn.Module) -> bool:
    """Whether it is a linear layer whose weight is stored ``(in, out)``; told without transformers."""
    return any(each.__name__.endswith("Conv1D") for each in type(module).__mro__)


def conv1d_class() -> type[nn.Module] | None:
    """transformers' ``Conv1D``, if it is installed."""
    try:
        from transformers.pytorch_utils import Conv1D
    except ImportError:
        return None
    return Conv1D
