"""``clm-kernels profile``: where the time and the memory of a training step go, beside full fine-tuning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import track
from rich.table import Table

from ..defaults import LENGTH
from ..errors import require
from ..extras import needs
from ..finetune.config import TrainConfig
from .console import Console, escaped
from .errors import stderr
from .estimate import PREPARING
from .options import config_options
from .quiet import quiet
from .told import Told


@config_options(PREPARING)
def profile(
    config: TrainConfig,
    length: Annotated[int, typer.Option(min=1, help="Tokens of a text.")] = LENGTH,
    device: Annotated[str, typer.Option(help="cpu or cuda; by default the GPU if there is one.")] = "",
    steps: Annotated[int, typer.Option(min=1, help="Steps to profile.")] = 5,
    output: Annotated[Path | None, typer.Option(help="Folder for profile.json, profile.png and Chrome traces.")] = None,
) -> Told:
    """Measure where the time and the memory of a training step go, on random tokens, beside full fine-tuning.

    Of --model, config.json alone is read; weights are drawn at random. With --energy, so are the shares of active tokens.
    """
    quiet()
    import torch

    from ..finetune.models import check_directory
    from ..measure.bench.machine import busy, provenance
    from ..measure.profiling import picture
    from ..measure.profiling.steps import measure
    from ..measure.subject import beside, resolved
    from ..models.folders import read_config

    config.check(("model",))
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    here = device.startswith("cpu") or torch.cuda.is_available()
    require(here, "profile", "device", "cpu where there is no CUDA GPU", repr(device))
    check_directory("profile", config.data.model)
    described = read_config(config.data.model)
    compared = {
        name: resolved(beside(config, method=name), described, length, "profile")
        for name in dict.fromkeys(("full", config.training.method))
    }
    config = compared[config.training.method]
    if output is not None:
        needs("matplotlib.figure", "profile")
        output.mkdir(parents=True, exist_ok=True)
    if others := busy(device):
        stderr.print(f"[bold yellow]warning:[/] {others}: times may be too long", highlight=False)
    reports = {}
    for name, each in track(compared.items(), "profiling", transient=True):
        trace = output and output / f"trace-{name}.json.gz"
        reports[name] = measure(each, length, device, steps, trace=trace)

    model, size = Path(config.data.model).name, config.training.batch_size
    dtypes = {each.data.dtype: name for name, each in compared.items()}
    dtype = config.data.dtype if len(dtypes) == 1 else ", ".join(f"{name} {dtype}" for dtype, name in dtypes.items())
    title = f"{model}, {size} x {length} tokens, {dtype}, {device}"
    console = Console(soft_wrap=True)
    console.print(_table(reports, escaped(title)))
    work = {name: value for name, value in config.options().items() if name in PREPARING}
    content = {
        "title": title,
        "machine": provenance(device),
        "work": work | {"model": model, "length": length, "device": device},
        "reports": {name: report.as_dict() for name, report in reports.items()},
    }
    if output is not None:
        (output / "profile.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        picture.draw(reports, output / "profile.png", title)
        console.print(
            f"saved in {output}: profile.json, profile.png, {', '.join(f'trace-{name}.json.gz' for name in reports)}",
            markup=False,
        )
    return Told(content, "\n".join(f"{name}: {report.step:.1f} ms a step" for name, report in reports.items()))


def _table(reports: dict, title: str) -> Table:
    from ..models.roles import by_number

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
    shares = [by_number(report.active) for report in reports.values()]
    layers = sorted({number for each in shares for number in each})
    table.add_row("the most at a time", *(f"{r.peak / 1e6:.1f} MB" for r in reports.values()), end_section=bool(layers))
    for number in layers:
        table.add_row(
            f"tokens in the backward, layer {number}", *(f"{each[number]:.0%}" if number in each else "" for each in shares)
        )
    if layers:
        table.caption = "random weights and tokens without padding: of texts, other tokens are active"
    return table
