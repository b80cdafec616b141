"""Training steps of MiniLM's shape: full, biases only, PEFT's LoRA, and rows or columns, all in one rotation."""

from __future__ import annotations

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

import clm_kernels as clm
from clm_kernels.models.structure import depths
from clm_kernels.selecting.units.control import random_selection

from .common import interleaved, keep, medians, ratio, row

BATCH, LENGTH, LABELS = 32, 24, 77
LINEARS = ["query", "key", "value", "dense"]
REPLAYED = "columns, upper half, replayed"


def minilm() -> BertForSequenceClassification:
    torch.manual_seed(0)
    config = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536, num_labels=LABELS)
    return BertForSequenceClassification(config).train()


def full():
    model = minilm()
    return model, torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)


def biases(lowest_layer: int = -1):
    """The floor: forward pass, and gradients of activations down to the lowest layer that trains; -1 is the embeddings."""
    model = minilm()
    depth = depths(model)
    for name, parameter in model.named_parameters():
        trained = name.endswith("bias") and depth.get(name, -1) >= lowest_layer
        parameter.requires_grad_(trained or name.startswith("classifier"))
    return model, torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5, fused=True)


def lora():
    model = get_peft_model(minilm(), LoraConfig(r=8, lora_alpha=16, target_modules=LINEARS, modules_to_save=["classifier"]))
    return model.train(), torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5, fused=True)


def sparse(kind: str, layers: str, replayed: bool = False):
    model = minilm()
    clm.patch(model, random_selection(model, density=0.03, kind=kind, layers=layers))
    if replayed:  # the texts have been seen before, as in every epoch but the first
        clm.replay(model)
    return model, clm.SparseAdamW(model.parameters(), lr=1e-5)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: int = BATCH, length: int = LENGTH):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1000, 30000, (batch, length), generator=generator)
    labels = torch.randint(0, LABELS, (batch,), generator=generator)

    def run() -> None:
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def measure(rounds: int, builds: int = 3) -> dict[str, list[float]]:
    """Seconds of every variant. They are built anew `builds` times, as where memory lies moves a ratio by some percent."""
    pooled: dict[str, list[float]] = {}
    for _ in range(builds):
        made = {"full": full(), "biases": biases(), "biases, upper half": biases(lowest_layer=3), "LoRA r=8": lora()}
        made |= {f"{kind}, {layers}": sparse(kind, layers) for kind in ("rows", "columns") for layers in ("all", "upper half")}
        made[REPLAYED] = sparse("columns", "upper half", replayed=True)
        seconds = interleaved({name: step(*pair) for name, pair in made.items()}, rounds // builds)
        for name, values in seconds.items():
            pooled.setdefault(name, []).extend(values)
    return pooled


def main(rounds: int = 75) -> list[dict[str, object]]:
    seconds = measure(rounds)
    rows = []
    for kind in ("rows", "columns"):
        everywhere, upper = f"{kind}, all", f"{kind}, upper half"
        floor = ratio(seconds, everywhere, "biases")
        rows.append(row(f"step, 3 % {kind}, all layers: time / biases only", floor, "<= 1.05", floor <= 1.05))
        faster = ratio(seconds, "full", everywhere)
        rows.append(row(f"step, 3 % {kind}, all layers: full / ours", faster, ">= 1.4", faster >= 1.4))
        faster = ratio(seconds, "full", upper)
        rows.append(row(f"step, 3 % {kind}, upper half: full / ours", faster, ">= 1.9", faster >= 1.9))
        faster = ratio(seconds, "LoRA r=8", upper)
        rows.append(row(f"step, 3 % {kind}, upper half: LoRA r=8 on all linears / ours", faster, ">= 1.5", faster >= 1.5))
        floor = ratio(seconds, upper, "biases, upper half")
        rows.append(row(f"step, 3 % {kind}, upper half: time / biases only", floor, "not set", True))
        rows.append(
            row(f"step, 3 % {kind}, all layers: LoRA r=8 / ours", ratio(seconds, "LoRA r=8", everywhere), "not set", True)
        )
    faster = ratio(seconds, "full", REPLAYED)
    rows.append(row("step, 3 % columns, upper half, the rest replayed: full / ours", faster, ">= 2.8", faster >= 2.8))
    for line in rows:
        line["milliseconds"] = medians(seconds)
    keep("step", rows)
    return rows


if __name__ == "__main__":
    main()
