"""``clm-kernels profile``: where the time and the memory of a training step go, beside full fine-tuning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ..errors import require
from ..extras import needs
from .quiet import quiet


def profile(
    model: Annotated[str, typer.Option(help="Directory with a config.json; weights are not read: they are drawn at random.")],
    method: Annotated[str, typer.Option(help="sparse, full or lora; full is measured beside the others.")] = "sparse",
    density: Annotated[float, typer.Option(help="Part of the eligible weights' units that sparse trains.")] = 0.02,
    kind: Annotated[str, typer.Option(help="What sparse selects: rows, columns, blocks, elements or groups.")] = "columns",
    layers: Annotated[str, typer.Option(help="Layers that sparse selects from: all, upper half, upper third.")] = "all",
    batch_size: Annotated[int, typer.Option(min=1, help="Examples in a batch.")] = 32,
    length: Annotated[int, typer.Option(min=1, help="Tokens of an example.")] = 128,
    dtype: Annotated[str, typer.Option(help="Type of the weights: float32 or bfloat16.")] = "float32",
    device: Annotated[str, typer.Option(help="cpu or cuda; by default the GPU if there is one.")] = "",
    steps: Annotated[int, typer.Option(min=1, help="Steps to profile.")] = 5,
    output: Annotated[Path | None, typer.Option(help="Folder for profile.json, profile.png and Chrome traces.")] = None,
) -> None:
    """Measure where the time and the memory of a training step go, on random tokens, beside full fine-tuning."""
    quiet()
    import torch

    from ..measure.bench.machine import provenance
    from ..measure.profiling import methods, picture

    require(method in methods.METHODS, "profile", "method", f"one of {', '.join(methods.METHODS)}", repr(method))
    require(dtype in ("float32", "bfloat16"), "profile", "dtype", "float32 or bfloat16", repr(dtype))
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    require(
        device.startswith("cpu") or torch.cuda.is_available(), "profile", "device", "cpu where there is no CUDA GPU", repr(device)
    )
    if output is not None:
        needs("matplotlib.figure", "profile")
        output.mkdir(parents=True, exist_ok=True)
    work = methods.Work(model, density, kind, layers, batch_size, length, dtype, device)
    reports = {}
    for name in track(dict.fromkeys(("full", method)), "profiling", transient=True):
        reports[name] = methods.measure(name, work, steps, trace=output and output / f"trace-{name}.json.gz")

    title = f"{Path(model).name}, {batch_size} x {length} tokens, {dtype}, {device}"
    console = Console(soft_wrap=True)
    console.print(_table(reports, title))
    if output is not None:
        costs = {name: report.as_dict() for name, report in reports.items()}
        content = {
            "title": title,
            "machine": provenance(device),
            "work": vars(work) | {"model": Path(model).name},
            "reports": costs,
        }
        (output / "profile.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        picture.draw(reports, output / "profile.png", title)
        console.print(
            f"saved in {output}: profile.json, profile.png, {', '.join(f'trace-{name}.json.gz' for name in reports)}",
            markup=False,
        )


def _table(reports: dict, title: str) -> Table:
    table = Table("", *reports, title=title)
    for column in table.columns[1:]:
        column.justify = "right"
    for phase in next(iter(reports.values())).milliseconds:
        row = [report.milliseconds[phase] for report in reports.values()]
        if any(row):
            table.add_row(phase, *(f"{milliseconds:.1f} ms" for milliseconds in row))
    table.add_row("a step, profiled", *(f"{sum(r.milliseconds.values()):.1f} ms" for r in reports.values()))
    table.add_row("a step, not profiled", *(f"{r.step:.1f} ms" for r in reports.values()), end_section=True)
    for part in next(iter(reports.values())).bytes:
        table.add_row(part, *(f"{r.bytes[part] / 1e6:.1f} MB" for r in reports.values()))
    table.add_row("the most at a time", *(f"{r.peak / 1e6:.1f} MB" for r in reports.values()))
    return table
