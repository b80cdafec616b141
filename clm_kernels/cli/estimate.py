"""``clm-kernels estimate``: what a training step will take, from a config alone, and on which GPUs that fits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ..errors import require
from ..finetune.config import TrainConfig
from .options import config_options
from .quiet import quiet

SIZES = (8, 16, 24, 48, 80, 141)  # gigabytes of common GPUs
ROOM = 1.1  # an estimate may be 10 % off
PREPARING = (  # options that tell how a model is made ready
    "model", "method", "density", "kind", "block", "layers", "biases", "norms", "lora_targets", "lora_rank", "task", "batch_size", "dtype",
    "gradient_checkpointing", "recompute_norms",
)  # fmt: skip
PARTS = ("weights", "optimizer_state", "masters", "gradients", "activations", "workspace")


@config_options(PREPARING)
def estimate(
    config: TrainConfig,
    length: Annotated[int, typer.Option(min=1, help="Tokens of a text.")] = 128,
    device: Annotated[str, typer.Option(help="Whose kernels are assumed: cuda or cpu.")] = "cuda",
) -> None:
    """Predict memory and FLOPs of a training step from the config alone, and say on which GPUs full, LoRA and sparse fit.

    Of --model, config.json alone is read. --dtype is that of weights and arithmetic. Bytes are those of tensors; a CUDA
    context and what the allocator keeps in reserve come on top. Scoring the units, before training, keeps all layers' inputs
    and no optimizer state: a forward and backward pass without checkpointing.
    """
    quiet()
    from ..finetune.models import check_directory
    from ..measure.estimate import estimate as predict
    from ..measure.subject import resolved
    from ..models.portable import read_config

    require(device in ("cpu", "cuda"), "estimate", "device", "cpu or cuda", repr(device))
    config.check(("model",))
    check_directory("estimate", config.data.model)
    described, config = read_config(config.data.model), resolved(config, "estimate")
    console = Console()
    if not console.is_terminal:
        console.width = 140
    method, rank = config.training.method, config.lora.lora_rank
    if missing := method != "lora" and not _has_peft():
        console.print("LoRA is left out: it needs the package peft")
    others = {"full": replace(config, method="full")}
    for wanted in () if missing else dict.fromkeys(("query,value", "all-linear", config.lora.lora_targets)):
        others[f"LoRA r {rank}, {wanted}"] = replace(config, method="lora", lora_targets=wanted)
    sparse = resolved(replace(config, method="sparse"), "estimate").selecting
    others[f"sparse {sparse.density:.3g} {sparse.kind}, {sparse.layers}"] = replace(config, method="sparse")
    found = dict.fromkeys((config, *others.values()))
    for other in track(found, "estimating", transient=True):
        found[other] = predict(described, other, length, device)
    checkpointing = ", checkpointing" if config.training.gradient_checkpointing else ""
    title = f"{Path(config.data.model).name}, {config.training.batch_size} x {length} tokens, {config.data.dtype}, {device}{checkpointing}"
    console.print(_parts(found[config], f"{method}: {title}"))
    console.print(_fits({name: found[other] for name, other in others.items()}, title))


def _has_peft() -> bool:
    import importlib.util

    return importlib.util.find_spec("peft") is not None


def _parts(found, title: str) -> Table:
    table = Table("at the peak of a step", "GB", title=title)
    table.columns[1].justify = "right"
    for part in PARTS:
        table.add_row(part.replace("_", " "), f"{getattr(found, part) / 1e9:.3f}")
    table.add_row("peak", f"{found.peak / 1e9:.3f}", end_section=True)
    table.add_row("trained", f"{found.trained:,}")
    table.add_row("TFLOPs of a step", f"{found.flops / 1e12:.3f}")
    return table


def _fits(found: dict, title: str) -> Table:
    table = Table("", "peak", "TFLOPs", *(f"{size} GB" for size in SIZES), title=f"what fits, with 10 % to spare: {title}")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, one in found.items():
        fits = ("yes" if ROOM * one.peak <= size * 1e9 else "-" for size in SIZES)
        table.add_row(name, f"{one.peak / 1e9:.2f} GB", f"{one.flops / 1e12:.3f}", *fits)
    return table
