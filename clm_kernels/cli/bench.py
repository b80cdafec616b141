"""``clm-kernels bench``: a short run of the microbenchmarks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import track
from rich.table import Table

from .console import Console
from .told import Told


def bench(
    shape: Annotated[str, typer.Option(help="MiniLM, BERT-base, ModernBERT-large, Qwen3-0.6B or Llama-2-7B")] = "MiniLM",
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16")] = "float32",
    device: Annotated[str, typer.Option(help="cpu or cuda; by default the GPU if there is one")] = "",
    tokens: Annotated[int, typer.Option(min=1, help="tokens of a batch, for gradients")] = 1024,
    rounds: Annotated[int, typer.Option(min=1, help="times that each call is timed")] = 15,
    compile: Annotated[
        bool, typer.Option("--compile", help="hold it against torch.compile too, which takes some ten seconds a case")
    ] = False,
    output: Annotated[Path | None, typer.Option(help="JSON file for the numbers")] = None,
) -> Told:
    """Time every op beside what torch has for it: checked first, caches flushed, in rotation, medians."""
    import torch

    from ..measure import bench

    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if place.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("bench: device cuda needs a CUDA GPU, none is here; try --device cpu")
    for name, value, known in (("shape", shape, bench.SHAPES), ("dtype", dtype, bench.DTYPES)):
        if value not in known:
            raise ValueError(f"bench: {name} must be one of {', '.join(known)}, got {value!r}")
    machine = bench.Machine.measure(place)
    names = [(op, kind) for op in bench.OPS for kind in bench.KINDS_OF.get(op, bench.KINDS)]
    rows = []
    for op, kind in track(names, "timing", transient=True):
        rows.append(bench.measure(bench.build(op, kind, dtype, shape, place, tokens), machine, place, rounds, compiled=compile))

    console = Console()
    console.print(_table(rows, f"{shape}, {dtype}, {tokens} tokens, {place}: {machine.copy / 1e9:.0f} GB/s copied"))
    content = {"machine": machine.described(place), "rows": rows}
    if output is not None:
        output.write_text(json.dumps(content, indent=1) + "\n")
        console.print(f"saved: {output}", markup=False, soft_wrap=True)
    return Told(
        content, "\n".join(f"{row['op']} {row['kind']} {row['implementation']} {row['microseconds']:.0f} µs" for row in rows)
    )


def _table(rows: list[dict], title: str) -> Table:
    table = Table("op", title=title, show_lines=True)
    for heading in ("µs", "GB/s", "% of\ncopy", "% of\nproduct"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("times faster than", overflow="fold")
    for row in rows:
        faster = "\n".join(f"{ratio:.1f} {name}" for name, ratio in row["faster than"].items())
        numbers = (f"{row['microseconds']:.0f}", f"{row['GB/s']:.1f}", f"{row['% of copy']:.0f}", f"{row['% of product']:.0f}")
        table.add_row(f"{row['op']}\nof {row['kind']}, {row['implementation']}", *numbers, faster)
    return table
