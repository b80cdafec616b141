"""What to do where the memory does not suffice."""

from __future__ import annotations

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
