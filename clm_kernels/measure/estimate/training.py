"""What is trained: a model made from its config, on any device, made ready as `finetune` does it."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, PretrainedConfig

from ...errors import require
from ...finetune import TrainConfig
from ...finetune.lora import targets
from ...models.positions import lend_pad_token, most_positions
from ...models.recomputing import checkpoint_layers, recompute_norms
from ...optim import SparseAdamW
from ...patching import patch
from ...selecting.budget import spending as budget
from ...selecting.pipeline import LINES
from ...selecting.units.control import random_selection
from ...selecting.units.finding import KINDS, find_units
from ...selection import Selection

BLOCK = TrainConfig.block
METHODS = ("sparse", "lora", "full", "head")
PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16}
AUTO = {"sequence": AutoModelForSequenceClassification, "token": AutoModelForTokenClassification}


@dataclass(frozen=True)
class Work:
    """What is trained, and on which batches.

    Attributes:
        method: ``"sparse"``, ``"lora"``, ``"full"`` or ``"head"``.
        task: ``"sequence"`` or ``"token"``.
        batch: texts in a batch.
        length: tokens a text, padding included.
        precision: ``"float32"``, or ``"bf16"``: of weights and arithmetic; float32 masters where `SparseAdamW` trains.
        checkpointing: whether layers are computed again in the backward pass.
        recompute_norms: whether RMSNorm is, see `models.recomputing`.
        density, kind, layers, biases, norms: of the method sparse, blocks as large as `train` has them; every eligible weight gives the same share of its units,
            every layer for coupled ones: the most that a Selection of this density takes.
        targets, rank: of the method lora: as `TrainConfig` has ``lora_targets`` and ``lora_rank``.
    """

    method: str = "sparse"
    task: str = "sequence"
    batch: int = 32
    length: int = 128
    precision: str = "float32"
    checkpointing: bool = False
    density: float = 0.02
    kind: str = "columns"
    layers: str = "all"
    biases: bool = True
    norms: bool = True
    recompute_norms: bool = False
    targets: str = "query,value"
    rank: int = 12

    def check(self) -> None:
        """Raises ValueError for the first field that cannot be right."""
        known = {"method": METHODS, "task": tuple(AUTO), "precision": tuple(PRECISIONS)}
        for name, choices in known.items():
            value = getattr(self, name)
            require(value in choices, "estimate", name, f"one of {', '.join(choices)}", repr(value))
        kinds = f"{', '.join(KINDS)}, or several joined by +, or groups"
        require(self.kind == "groups" or set(self.kind.split("+")) <= set(KINDS), "estimate", "kind", kinds, repr(self.kind))
        for name in ("batch", "length", "rank"):
            require(getattr(self, name) >= 1, "estimate", name, "at least 1", getattr(self, name))
        require(0 < self.density <= 1, "estimate", "density", "in (0, 1]", self.density)


def build(config: PretrainedConfig, work: Work, device: torch.device | str) -> nn.Module:
    """The model in training mode: random weights, on the meta device none."""
    work.check()
    positions = most_positions(config) or work.length
    require(work.length <= positions, "estimate", "length", f"at most the model's {positions} positions", work.length)
    config = copy.deepcopy(config)
    lend_pad_token(config)
    with torch.device(device):
        return AUTO[work.task].from_config(config, dtype=PRECISIONS[work.precision]).train()


def prepare(model: nn.Module, work: Work) -> tuple[nn.Module, Optimizer]:
    """What is called in training, and its optimizer."""
    called = model
    if work.method == "lora":
        called = _with_adapters(model, work)
    elif work.method != "full":
        sparse = work.method == "sparse"
        selection = spread(model, work) if sparse else Selection()
        patch(model, selection, biases=sparse and work.biases, norms=sparse and work.norms, dry=model.device.type == "meta")
    if work.checkpointing:
        checkpoint_layers(model)
    if work.recompute_norms:
        recompute_norms(model)
    trained = [p for p in called.parameters() if p.requires_grad]
    if work.method in ("sparse", "head"):
        return called, SparseAdamW(trained, lr=1e-5)
    return called, AdamW(trained, lr=1e-5, fused=model.device.type != "meta")


def spread(model: nn.Module, work: Work) -> Selection:
    """A Selection of this density that reaches as far down as `layers` lets it, scattered as a real one is."""
    if work.kind in (*LINES, "blocks", "groups"):
        return random_selection(model, density=work.density, kind=work.kind, layers=work.layers, block=(BLOCK, BLOCK))
    units = find_units(model, work.kind, layers=work.layers)
    generator = torch.Generator().manual_seed(0)
    scores = {name: torch.rand(part.layout.units, generator=generator) for name, part in units.items()}
    return budget(scores, model, density=work.density, per="layer", units=units)


def _with_adapters(model: nn.Module, work: Work) -> nn.Module:
    """PEFT's LoRA as in arXiv 2310.01208: alpha 32, dropout 0.1."""
    try:
        from peft import LoraConfig, TaskType, get_peft_model
    except ImportError as error:
        raise ImportError("estimate: the method lora needs the package peft: `pip install peft`") from error
    kind = TaskType.SEQ_CLS if work.task == "sequence" else TaskType.TOKEN_CLS
    options = {"task_type": kind, "r": work.rank, "lora_alpha": 32, "lora_dropout": 0.1}
    return get_peft_model(model, LoraConfig(target_modules=targets(model, work.targets), **options)).train()


def batch(model: nn.Module, work: Work, device: torch.device | str) -> dict[str, Tensor]:
    """A batch of full length, without padding."""
    ids = torch.ones(work.batch, work.length, dtype=torch.long, device=device)
    shape = ids.shape if work.task == "token" else ids.shape[:1]
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": torch.zeros(shape, dtype=torch.long, device=device),
    }
