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
from .quiet import quiet

SIZES = (8, 16, 24, 48, 80, 141)  # gigabytes of common GPUs
ROOM = 1.1  # an estimate may be 10 % off
PARTS = ("weights", "optimizer_state", "masters", "gradients", "activations", "workspace")


def estimate(
    model: Annotated[str, typer.Option(help="Directory with a config.json; weights are not read.")],
    method: Annotated[str, typer.Option(help="What is shown in detail: sparse, lora, full or head.")] = "sparse",
    density: Annotated[float, typer.Option(help="Part of the eligible weights' units that sparse trains.")] = 0.125,
    kind: Annotated[str, typer.Option(help="Units of sparse, as train takes them; not elements.")] = "groups",
    layers: Annotated[str, typer.Option(help="Layers that sparse trains: all, upper half, upper third.")] = "all",
    biases: Annotated[bool, typer.Option(help="Sparse trains the biases too.")] = True,
    norms: Annotated[bool, typer.Option(help="Sparse trains the normalisation weights too.")] = True,
    targets: Annotated[str, typer.Option(help="What gets LoRA: all-linear, or query, key, value and names.")] = "query,value",
    rank: Annotated[int, typer.Option(min=1, help="LoRA's rank.")] = 12,
    task: Annotated[str, typer.Option(help="sequence or token.")] = "sequence",
    batch: Annotated[int, typer.Option(min=1, help="Texts in a batch.")] = 32,
    length: Annotated[int, typer.Option(min=1, help="Tokens of a text.")] = 128,
    precision: Annotated[str, typer.Option(help="Weights and arithmetic: float32 or bf16 (train: --dtype).")] = "float32",
    checkpointing: Annotated[bool, typer.Option(help="Compute layers again in the backward pass.")] = False,
    recompute_norms: Annotated[bool, typer.Option(help="Compute RMSNorm again in the backward pass.")] = False,
    device: Annotated[str, typer.Option(help="Whose kernels are assumed: cuda or cpu.")] = "cuda",
) -> None:
    """Predict memory and FLOPs of a training step from the config alone, and say on which GPUs full, LoRA and sparse fit.

    Bytes are those of tensors; a CUDA context and what the allocator keeps in reserve come on top. Scoring the units, before
    training, keeps all layers' inputs and no optimizer state: a forward and backward pass without checkpointing.
    """
    quiet()
    from ..finetune.models import check_directory
    from ..measure.estimate import Work
    from ..measure.estimate import estimate as predict
    from ..models.portable import read_config

    require(device in ("cpu", "cuda"), "estimate", "device", "cpu or cuda", repr(device))
    check_directory("estimate", model)
    config = read_config(model)
    work = Work(
        method, task, batch, length, precision, checkpointing, density=density, kind=kind, layers=layers, biases=biases,
        norms=norms, recompute_norms=recompute_norms, targets=targets, rank=rank,
    )  # fmt: skip
    work.check()
    console = Console()
    if not console.is_terminal:
        console.width = 140
    if missing := method != "lora" and not _has_peft():
        console.print("LoRA is left out: it needs the package peft")
    others = {"full": replace(work, method="full")}
    for wanted in () if missing else dict.fromkeys(("query,value", "all-linear", targets)):
        others[f"LoRA r {rank}, {wanted}"] = replace(work, method="lora", targets=wanted)
    others[f"sparse {density:.3g} {kind}, {layers}"] = replace(work, method="sparse")
    found = dict.fromkeys((work, *others.values()))
    for other in track(found, "estimating", transient=True):
        found[other] = predict(config, other, device)
    title = f"{Path(model).name}, {batch} x {length} tokens, {precision}, {device}{', checkpointing' if checkpointing else ''}"
    console.print(_parts(found[work], f"{method}: {title}"))
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
