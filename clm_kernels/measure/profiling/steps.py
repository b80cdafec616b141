"""`measure`: some training steps of a model's architecture on random tokens, profiled."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.utils.data import DataLoader
from transformers import PretrainedConfig

from ...defaults import LENGTH
from ...finetune.config import TrainConfig
from ...finetune.models import check_directory
from ...models.folders import read_config
from ..subject import build, labels_shape, prepare, resolved
from .session import Report, profiling


def measure(
    config: TrainConfig, length: int = LENGTH, device: str = "cpu", steps: int = 5, warm_up: int = 4, trace: Path | None = None
) -> Report:
    """Trains some steps and says what one costs: time and memory depend neither on the weights nor on the texts.

    Args:
        config: method, selection, batch size and all else by which `train` makes a model ready, with its defaults. Of
            ``config.data.model`` the architecture alone is read.
        length: tokens a text.

    Raises:
        ValueError: for options or a directory that cannot be right.
        RuntimeError: for LoRA without peft.
    """
    check_directory("profile", config.data.model)
    described = read_config(config.data.model)
    config = resolved(config, described, length, "profile")
    torch.manual_seed(config.run.seed)
    prepared = prepare(build(described, config, "cpu").to(device), config)
    model, optimizer = prepared.model, prepared.optimizer
    with profiling(model, optimizer, steps=steps, warm_up=warm_up, trace=trace) as profiled:
        for batch in batches(described, config, length, count=warm_up + steps + 1, pin=device.startswith("cuda")):
            inputs = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
            model(**inputs).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return profiled.report


def batches(described: PretrainedConfig, config: TrainConfig, length: int, count: int, pin: bool) -> DataLoader:
    """`count` batches of full length, without padding."""
    generator = torch.Generator().manual_seed(config.run.seed)
    size = (count * config.training.batch_size, length)
    ids = torch.randint(1, described.get_text_config().vocab_size, size, generator=generator)
    labels = torch.randint(described.num_labels, labels_shape(config, ids), generator=generator)
    rows = [{"input_ids": row, "attention_mask": torch.ones_like(row), "labels": label} for row, label in zip(ids, labels)]
    return DataLoader(rows, config.training.batch_size, pin_memory=pin)
