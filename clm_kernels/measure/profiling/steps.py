"""`measure`: some training steps of a model's architecture on random tokens, profiled."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.utils.data import DataLoader
from transformers import AutoConfig, PretrainedConfig

from ...finetune.config import TrainConfig
from ...finetune.models import check_directory
from ..subject import build, prepare, resolved
from .session import Report, profiling


def measure(
    config: TrainConfig, length: int = 128, device: str = "cpu", steps: int = 5, warm_up: int = 4, trace: Path | None = None
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
    config = resolved(config, "profile")
    check_directory("profile", config.data.model)
    torch.manual_seed(config.run.seed)
    described = AutoConfig.from_pretrained(config.data.model)
    prepared = prepare(build(described, config, length, "cpu").to(device), config)
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
    labels = torch.randint(described.num_labels, size[:1], generator=generator)
    rows = [{"input_ids": row, "attention_mask": torch.ones_like(row), "labels": label} for row, label in zip(ids, labels)]
    return DataLoader(rows, config.training.batch_size, pin_memory=pin)
