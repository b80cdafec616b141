"""``clm-kernels estimate``: what a training step will take, from a config alone, and on which GPUs that fits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import track
from rich.table import Table

from ..defaults import ACTIVE_SHARE, LENGTH
from ..errors import require
from ..finetune.config import TrainConfig
from .console import Console, escaped
from .options import config_options
from .quiet import quiet
from .told import Told

SIZES = (8, 16, 24, 48, 80, 141)  # gigabytes of common GPUs
ROOM = 1.1  # an estimate may be 10 % off
PREPARING = (  # options that tell how a model is made ready
    "model", "method", "density", "kind", "block", "layers", "biases", "norms", "lora_targets", "lora_rank", "task", "batch_size", "dtype",
    "gradient_checkpointing", "recompute_norms", "energy", "cost", "epochs",
)  # fmt: skip
PARTS = ("weights", "optimizer_state", "masters", "gradients", "activations", "workspace")


@config_options(PREPARING)
def estimate(
    config: TrainConfig,
    length: Annotated[int, typer.Option(min=1, help="Tokens of a text.")] = LENGTH,
    device: Annotated[str, typer.Option(help="Whose kernels are assumed: cuda or cpu.")] = "cuda",
    active_share: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Part of the tokens assumed in the backward, where --energy leaves some out; with --cost it is found.",
        ),
    ] = ACTIVE_SHARE,
    processes: Annotated[
        int,
        typer.Option(
            min=1,
            help="Processes that train together, each with --batch-size texts a step and, without --fsdp, all of the model.",
        ),
    ] = 1,
    tflops: Annotated[
        float | None,
        typer.Option(help="With --processes: TFLOPs a second that one of them reaches, for the network that hides the exchange."),
    ] = None,
    fsdp: Annotated[bool, typer.Option("--fsdp", help="With --processes: they hold the base together, each its part.")] = False,
) -> Told:
    """Predict memory and FLOPs of a training step from the config alone, and say on which GPUs full, LoRA and sparse fit.

    Of --model, config.json alone is read. --dtype is that of weights and arithmetic. Bytes are those of tensors; a CUDA
    context and what the allocator keeps in reserve come on top. Scoring the units, before training, keeps all layers' inputs
    and no optimizer state: a forward and backward pass without checkpointing. How many tokens an --energy leaves out is known
    only of a run, so --active-share is assumed; memory does not depend on it. --cost says which share of tokens and examples keeps
    a run of so many --epochs to it.
    """
    quiet()
    from ..finetune.models import check_directory
    from ..measure.estimate import estimate as predict
    from ..measure.estimate.processes import exchange as together
    from ..measure.subject import beside, resolved
    from ..models.folders import read_config

    require(not fsdp or processes > 1, "estimate", "fsdp", "left out without processes", fsdp)
    require(device in ("cpu", "cuda"), "estimate", "device", "cpu or cuda", repr(device))
    across_copies = processes > 1 and not fsdp
    require(tflops is None or across_copies, "estimate", "tflops", "left out without processes, or with fsdp", tflops)
    require(tflops is None or tflops > 0, "estimate", "tflops", "above 0", tflops)
    left_out = active_share == ACTIVE_SHARE or (config.training.leaves_out and config.training.cost is None)
    require(left_out, "estimate", "active_share", "left out without energy, and with cost, which finds it", active_share)
    own = beside(config)  # options of other methods shape what it is compared with
    own.check(("model",))
    check_directory("estimate", config.data.model)
    described = read_config(config.data.model)
    asked = resolved(own, described, length, "estimate")
    console = Console()
    if not _has_peft():
        console.print("LoRA is left out: it needs the package peft")
    others = {}
    for name, other in _others(config).items():
        other = resolved(other, described, length, "estimate")
        others[name if other.data.dtype == asked.data.dtype else f"{name}, {other.data.dtype}"] = other
    found = dict.fromkeys((asked, *others.values()))
    for other in track(found, "estimating", transient=True):
        found[other] = predict(described, other, length, device, active_share)
    training = asked.training
    checkpointing = ", checkpointing" if training.gradient_checkpointing else ""
    size = f"{training.batch_size} x {length} tokens, {asked.data.dtype}, {device}{checkpointing}"
    title = f"{escaped(Path(config.data.model).name)}, {size}"
    console.print(_parts(found[asked], f"{training.method}: {title}"))
    beside = {name: found[other] for name, other in others.items()}
    console.print(_fits(beside, title))
    shared = {}
    if across_copies:
        from .across import across

        ways = others if asked in others.values() else {training.method: asked, **others}
        shared = {name: together(described, way, length, device, processes, tflops, found[way]) for name, way in ways.items()}
        console.print(across(shared, title))
    one = found[asked].as_dict()
    parts = _divided(described, asked, processes, length, found[asked], console) if fsdp else None
    document = {
        "model": config.data.model, "method": training.method, "batch_size": training.batch_size, "length": length,
        "dtype": asked.data.dtype, "device": device, "bytes_and_flops": one, "beside": {name: other.as_dict() for name, other in beside.items()},
        "a_process": parts,
    }  # fmt: skip
    if shared:
        document["processes"] = {name: other.as_dict() for name, other in shared.items()}
    return Told(
        document, f"{training.method}: {one['peak'] / 1e9:.3f} GB at the peak of a step, {one['flops'] / 1e12:.3f} TFLOPs"
    )


def _divided(described, asked: TrainConfig, processes: int, length: int, one, console: Console) -> dict:
    """Prints what each of several processes takes that hold the base together; all of it by name."""
    from ..measure.estimate.divided import divided

    found = divided(described, asked, processes, length)
    peak = one.peak - one.weights + found.weights
    table = Table("of each process", "GB", title=f"{processes} processes that hold the base together (FSDP2)")
    table.columns[1].justify = "right"
    told = {
        "its part of the base": found.shards, "what is trained, whole": found.trained, "gathered at a time, at most": found.gathered,
        "peak of a step, at most": peak, "gathered in a forward": found.forward, "gathered again in its backward": found.backward,
        "gradients that are averaged": found.reduced, "received in a step, and sent": found.received,
    }  # fmt: skip
    for name, size in told.items():
        table.add_row(name, f"{size / 1e9:.3f}", end_section=size is peak)
    console.print(table)
    return found.as_dict() | {"peak": peak}


def _others(config: TrainConfig) -> dict[str, TrainConfig]:
    """What to compare with, by name."""
    from ..measure.subject import beside

    others, rank, sparse = {"full": beside(config, method="full")}, config.lora.lora_rank, config.selecting.resolved()
    for targets in dict.fromkeys(("query,value", "all-linear", config.lora.lora_targets)) if _has_peft() else ():
        others[f"LoRA r {rank}, {targets}"] = beside(config, method="lora", lora_targets=targets)
    return others | {f"sparse {sparse.density:.3g} {sparse.kind}, {sparse.layers}": beside(config, method="sparse")}


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
    if found.active_share is not None:
        told = "assumed" if found.examples_share is None else "for the cost"
        table.add_row("tokens in the backward", f"{found.active_share:.0%} ({told})")
    if found.examples_share is not None:
        table.add_row("examples after the first epoch", f"{found.examples_share:.0%}")
    return table


def _fits(found: dict, title: str) -> Table:
    table = Table("", "peak", "TFLOPs", "fits a GPU of", title=f"what fits, with 10 % to spare: {title}")
    for column in table.columns[1:]:
        column.justify = "right"
    assumed = {one.active_share for one in found.values()} - {None}
    if assumed:
        of = (
            "what has a cost"
            if any(one.examples_share for one in found.values())
            else "what has an energy below 1, which is assumed"
        )
        table.caption = f"TFLOPs at {max(assumed):.0%} of the tokens in the backward of {of}"
    for name, one in found.items():
        fits = next((f"{size} GB" for size in SIZES if ROOM * one.peak <= size * 1e9), f"more than {SIZES[-1]} GB")
        table.add_row(name, f"{one.peak / 1e9:.2f} GB", f"{one.flops / 1e12:.3f}", fits)
    return table
