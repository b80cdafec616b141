"""Training loops to profile: a model's architecture on random tokens, trained in one of three ways."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.optim import AdamW, Optimizer
from torch.utils.data import DataLoader
from transformers import AutoConfig, AutoModelForSequenceClassification

from ...errors import require
from ...finetune.models import check_directory
from ...models.positions import lend_pad_token
from ...optim import SparseAdamW
from ...patching import patch
from ...selecting.units.control import random_selection
from .session import Report, profiling

METHODS = ("sparse", "full", "lora")
LORA_RANK = 8


@dataclass(frozen=True)
class Work:
    """What is trained on: the architecture in the directory `model` with random weights, and random tokens.

    Time and memory of a step depend on neither. `density`, `kind` and `layers` are for the method sparse: as many units
    of each eligible weight, drawn at random.
    """

    model: str
    density: float = 0.02
    kind: str = "columns"
    layers: str = "all"
    batch_size: int = 32
    length: int = 128
    dtype: str = "float32"
    device: str = "cpu"
    seed: int = 0


def measure(method: str, work: Work, steps: int = 5, warm_up: int = 4, trace: Path | None = None) -> Report:
    """Trains some steps and says what one costs.

    Raises:
        ValueError: for a method, directory or selection that there is not.
        ImportError: for LoRA without peft.
    """
    require(method in METHODS, "profile", "method", f"one of {', '.join(METHODS)}", repr(method))
    model = build(work)
    model, optimizer = {"sparse": sparse, "full": full, "lora": lora}[method](model, work)
    with profiling(model, optimizer, steps=steps, warm_up=warm_up, trace=trace) as profiled:
        for batch in batches(model.config, work, count=warm_up + steps + 1):
            inputs = {name: tensor.to(work.device, non_blocking=True) for name, tensor in batch.items()}
            model(**inputs).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return profiled.report


def build(work: Work) -> nn.Module:
    check_directory("profile", work.model)
    torch.manual_seed(work.seed)
    config = AutoConfig.from_pretrained(work.model)
    lend_pad_token(config)
    model = AutoModelForSequenceClassification.from_config(config, dtype=getattr(torch, work.dtype))
    return model.to(work.device).train()


def batches(config, work: Work, count: int) -> DataLoader:
    """`count` batches of full length, without padding."""
    generator = torch.Generator().manual_seed(work.seed)
    size = (count * work.batch_size, work.length)
    ids = torch.randint(1, config.get_text_config().vocab_size, size, generator=generator)
    labels = torch.randint(config.num_labels, size[:1], generator=generator)
    rows = [{"input_ids": row, "attention_mask": torch.ones_like(row), "labels": label} for row, label in zip(ids, labels)]
    return DataLoader(rows, work.batch_size, pin_memory=work.device.startswith("cuda"))


def sparse(model: nn.Module, work: Work) -> tuple[nn.Module, Optimizer]:
    patch(model, random_selection(model, density=work.density, kind=work.kind, layers=work.layers, seed=work.seed))
    return model, SparseAdamW(model.parameters(), lr=1e-5)


def full(model: nn.Module, work: Work) -> tuple[nn.Module, Optimizer]:
    return model, AdamW(model.parameters(), lr=1e-5, fused=True)


def lora(model: nn.Module, work: Work) -> tuple[nn.Module, Optimizer]:
    try:
        from peft import LoraConfig, TaskType, get_peft_model
    except ImportError as error:
        raise ImportError("profile: the method lora needs the package peft: `pip install peft`") from error
    config = LoraConfig(task_type=TaskType.SEQ_CLS, r=LORA_RANK, lora_alpha=2 * LORA_RANK, target_modules="all-linear")
    adapted = get_peft_model(model, config).train()
    return adapted, AdamW([p for p in adapted.parameters() if p.requires_grad], lr=1e-5, fused=True)
