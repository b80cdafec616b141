"""Tiny models with adapters of `clm_kernels.peft`, and a few steps of training by torch's own optimizer."""

import torch
from models import batch, bits, build
from peft import get_peft_model

from clm_kernels.peft import ClmConfig, ClmLayer

KINDS = ("groups", "rows", "columns", "blocks", "elements")


def adapted(family="bert", dtype=torch.float32, adapter="default", **options):
    """A tiny classifier with one adapter."""
    return get_peft_model(build(family, dtype=dtype), config(**options), adapter).eval()


def config(**options):
    return ClmConfig(**{"task_type": "SEQ_CLS", "density": 0.25} | options)


def train(model, steps=2, seed=0, lr=1e-2):
    """Steps of what requires gradients."""
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr)
    for step in range(steps):
        model(**batch(model.get_base_model(), seed=seed + step)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def logits(model):
    with torch.no_grad():
        return model(**batch(getattr(model, "get_base_model", lambda: model)(), seed=9)).logits


def base_bits(model):
    """What the base holds inside a wrapped model, by the names that it has there without adapters."""
    found = {}
    for name, tensor in bits(model.get_base_model()).items():
        if ".clm_" not in name and ".modules_to_save." not in name:
            found[name.replace(".base_layer.", ".").replace(".original_module.", ".")] = tensor
    return found


def layers(model):
    return {name: module for name, module in model.named_modules() if isinstance(module, ClmLayer)}
