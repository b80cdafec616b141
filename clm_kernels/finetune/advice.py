"""What to do where the memory does not suffice, or the processor lacks what was asked for."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .config import TrainConfig


@contextmanager
def advice_when_out_of_memory(config: TrainConfig) -> Iterator[None]:
    """Turns the many errors that mean "out of memory" into one line that helps.

    Raises:
        RuntimeError: in their place.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, (MemoryError, torch.OutOfMemoryError)) and "can't allocate memory" not in str(error):
            raise
        raise RuntimeError(
            f"train: out of memory; try a batch_size below {config.training.batch_size} with more gradient_accumulation, "
            f"a max_length below {config.data.max_length}, layers 'upper half', or precision bf16"
        ) from error


def slow_on_this_cpu(config: TrainConfig, device: torch.device) -> str:
    """A line where bfloat16 was asked for on a CPU that has no instructions for it, which computes it by way of float32; else empty."""
    asked = next((f"--{name} {value}" for name, value in (("precision", config.training.precision), ("dtype", config.data.dtype))
                  if value in ("bf16", "bfloat16")), "")  # fmt: skip
    if not asked or device.type != "cpu" or has_bfloat16():
        return ""
    return f"{asked}: this CPU ({torch.backends.cpu.get_cpu_capability()}) has no instructions for it, so that it is slower than float32"


def has_bfloat16() -> bool:
    """Whether the CPU multiplies in bfloat16. Of x86 oneDNN's own answer does not tell: it takes any AVX-512, and emulates."""
    if platform.machine().lower() in ("x86_64", "amd64"):
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()
