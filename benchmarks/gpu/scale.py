"""How large everything is, and how a part of a call prints and keeps what it measures."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import BertConfig

from ..common import folder, machine, row, write
from .reach import REACH

LLAMA = [(4096, 4096)] * 4 + [(11008, 4096)] * 2 + [(4096, 11008)]  # the linear weights of one of Llama-2-7B's 32 layers
BERT = [(768, 768)] * 4 + [(3072, 768), (768, 3072)]  # of one of BERT-base's 12


@dataclass(frozen=True)
class Scale:
    """As the names in the table say on a GPU, small in a dry run."""

    device: torch.device
    llama: list[tuple[int, int]]
    bert: list[tuple[int, int]]
    product: tuple[int, int, int]  # out, in, tokens
    batch: tuple[int, int]
    config: BertConfig
    rounds: int

    @classmethod
    def of(cls, on_gpu: bool) -> Scale:
        if on_gpu:
            return cls(torch.device("cuda"), LLAMA * 32, BERT * 12, (4096, 4096, 8192), (32, 128), BertConfig(num_labels=77), 30)
        small = BertConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, num_labels=7)
        return cls(torch.device("cpu"), [(128, 256)] * 2, [(64, 64)] * 3, (256, 256, 64), (2, 16), small, 2)

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"


def line(what: str, measured: float, **details: object) -> dict[str, object]:
    """A row of the table."""
    text, met = REACH[what]
    return row(what, measured, text, met(measured), **details)


def milliseconds(seconds: Mapping[str, list[float]]) -> dict[str, float]:
    """Median of each call."""
    return {name: 1e3 * statistics.median(values) for name, values in seconds.items()}


def run_part(name: str, description: str, rows: Callable[[Scale], Iterator[dict[str, object]]]) -> None:
    """A part's command line: prints each row, and writes ``<name>.json`` anew with it, so that a part cut off leaves some.

    Without a GPU it is a dry run over small shapes on the CPU, which shows that everything runs; its numbers mean nothing,
    and are written only where a folder is given.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.gpu.{name}", description=description)
    parser.add_argument("--output", type=Path, help=f"folder for {name}.json; benchmarks/results/<gpu> by default")
    given = parser.parse_args()
    torch.manual_seed(0)
    scale, kept = Scale.of(torch.cuda.is_available()), []
    stored = {"machine": machine(scale.device), "dry run": not scale.on_gpu, "rows": kept}
    for each in rows(scale):
        kept.append(each)
        print(f"{each['what']}: " + (f"{each['measured']:g} (reach {each['reach']})" if scale.on_gpu else "runs"), flush=True)
        if given.output or scale.on_gpu:
            write((given.output or folder(scale.device)) / f"{name}.json", stored)
    if not scale.on_gpu:
        print("no GPU: a dry run on the CPU, over small shapes; nothing was measured")
