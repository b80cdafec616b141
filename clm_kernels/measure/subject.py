"""What is measured or predicted: a model made from its config, and a batch, as `finetune` would train them."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from ..errors import require
from ..finetune.config import DEFAULTS, TrainConfig
from ..finetune.effects import idle
from ..finetune.methods import Prepared, check, method_of
from ..finetune.tasks import TASKS, Task
from ..models.folders import build_model
from ..models.recomputing import checkpoint_layers, recompute_norms

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def task_of(config: TrainConfig) -> Task:
    """The task; ``"auto"``, where there is no data, is sequence classification."""
    return TASKS["sequence" if config.data.task == "auto" else config.data.task]


def resolved(config: TrainConfig, model: PretrainedConfig, length: int, function: str) -> TrainConfig:
    """The config as `train` would resolve it, checked; the dtype ``"auto"`` is that of the model's config, else float32.

    Args:
        length: tokens a text.
        function: whose errors they are.

    Raises:
        ValueError: for options that cannot be right, or if the model has no positions for texts that long.
        RuntimeError: for LoRA without peft.
    """
    check(config, ())
    planned = () if function == "estimate" else ("cost",)
    for name in ("backward", "selection", "merge_tokens", "replay", "packing", "skip", "noise", "mix_layers", *planned):
        value = config.options()[name]
        require(not value, function, name, "left out, as nothing is chosen or merged here, and no text is read", repr(value))
    arithmetic = config.training.precision
    require(arithmetic == "float32", function, "precision", "left out: dtype is that of weights and arithmetic", repr(arithmetic))
    one = not task_of(config).several
    require(one, function, "task", "sequence, whose time and memory are the same", repr(config.data.task))
    method = method_of(config)
    method.check_packages(function)
    require(length >= 1, function, "length", "at least 1", length)
    positions = getattr(model, "max_position_embeddings", None) or length
    require(length <= positions, function, "length", f"at most the model's {positions} positions", length)
    config = method.resolved(config, task_of(config))
    if config.data.dtype != "auto":
        return config
    stored = str(model.dtype or torch.float32).removeprefix("torch.")
    require(stored in DTYPES, function, "dtype", f"float32 or bfloat16 for a checkpoint in {stored}", "'auto'")
    return replace(config, dtype=stored)


def beside(config: TrainConfig, **changes: Any) -> TrainConfig:
    """Another way to train, to compare with: the same options, without those that have no effect there."""
    other = config.replace(**changes)
    return other.replace(**{name: DEFAULTS[name] for name, _ in idle(other.options())})


def build(model: PretrainedConfig, config: TrainConfig, device: torch.device | str) -> nn.Module:
    """The model in training mode: random weights, on the meta device none.

    Args:
        config: resolved.
    """
    model = copy.deepcopy(model)
    if model.pad_token_id is None:
        model.pad_token_id = 0  # decoders ask for one, though no batch here is padded
    with torch.device(device):
        return build_model(task_of(config).auto_class, model, DTYPES[config.data.dtype]).train()


def prepare(model: nn.Module, config: TrainConfig) -> Prepared:
    """Made ready as `train` does it, with a selection that is drawn as large and as deep as a real one.

    Args:
        config: resolved.
    """
    method = method_of(config)
    prepared = method.prepare(model, config, method.draw(model, config))
    if config.training.gradient_checkpointing:
        checkpoint_layers(model)
    if config.training.recompute_norms:
        recompute_norms(model)
    return prepared


def batch(config: TrainConfig, length: int, device: torch.device | str) -> dict[str, Tensor]:
    """A batch of full length, without padding."""
    ids = torch.ones(config.training.batch_size, length, dtype=torch.long, device=device)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": torch.zeros(labels_shape(config, ids), dtype=torch.long, device=device),
    }


def labels_shape(config: TrainConfig, ids: Tensor) -> torch.Size:
    """Of the labels of texts ``(texts, length)``: one a token, or one a text."""
    return ids.shape if task_of(config).per_token else ids.shape[:1]
