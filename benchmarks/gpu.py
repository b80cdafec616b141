"""What a GPU should reach: ``python -m benchmarks.gpu [adamw] [products] [step] [--output DIR]`` writes gpu.json there.

Without a GPU it is a dry run over small shapes on the CPU, which shows that everything here runs; its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from transformers import BertConfig, BertForSequenceClassification

import clm_kernels as clm
from clm_kernels import ops
from clm_kernels.bench.cases import some_entries
from clm_kernels.bench.timing import Machine, Timer, rotated
from clm_kernels.choose import random_selection

from .common import folder, machine, ratio, row, write
from .sweep import implementations

LLAMA = [(4096, 4096)] * 4 + [(11008, 4096)] * 2 + [(4096, 11008)]  # the linear weights of one of Llama-2-7B's 32 layers
BERT = [(768, 768)] * 4 + [(3072, 768), (768, 3072)]  # of one of BERT-base's 12
REACH = {  # what -> (text, met)
    "adamw_step_, 1 % rows of Llama-2-7B's linears: share of the copy bandwidth": (">= 0.8", lambda x: x >= 0.8),
    "adamw_step_, 1 % columns of Llama-2-7B's linears: share of the copy bandwidth": (">= 0.8", lambda x: x >= 0.8),
    "adamw_step_, 1 % rows of Llama-2-7B's linears: torch fused over all / ours": (">= 50", lambda x: x >= 50),
    "adamw_step_, 1 % columns of Llama-2-7B's linears: torch fused over all / ours": (">= 50", lambda x: x >= 50),
    "adamw_step_, 1 % rows of Llama-2-7B's linears: kernels launched": ("1", lambda x: x == 1),
    "adamw_step_, 1 % rows of BERT-base: microseconds on the device": ("<= 25", lambda x: x <= 25),
    "adamw_step_, 1 % rows of BERT-base: microseconds on the host": ("<= 60", lambda x: x <= 60),
    "weight_grad 4096x4096, T=8192, 2 % rows: dense product / ours": (">= 10", lambda x: x >= 10),
    "weight_grad 4096x4096, T=8192, 2 % columns: dense product / ours": (">= 10", lambda x: x >= 10),
    "weight_grad 4096x4096, T=8192, 2 % blocks: dense product / ours": (">= 6", lambda x: x >= 6),
    "weight_grad 4096x4096, T=8192, 1 % elements: ours / (dense product + gather)": ("<= 1.15", lambda x: x <= 1.15),
    "weight_grad 4096x4096, T=8192, 1 % elements: extra memory / (2 compact gradients + a strip)": ("<= 1", lambda x: x <= 1),
    "weight_grad 4096x4096, T=8192, 2 % rows: extra memory / the dense gradient": ("<= 0.25", lambda x: x <= 0.25),
    "step of BERT-base, 32x128, bf16, 3 % columns, CUDA graph: full / ours": (">= 1.35", lambda x: x >= 1.35),
    "step of BERT-base, 32x128, bf16, 3 % columns, torch.compile: full / ours": (">= 1.35", lambda x: x >= 1.35),
}


@dataclass(frozen=True)
class Scale:
    """How large everything is: as the names say on a GPU, small in a dry run."""

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


def line(what: str, measured: float, **details: object) -> dict[str, object]:
    text, met = REACH[what]
    return row(what, measured, text, met(measured), **details)


def adamw(scale: Scale) -> list[dict[str, object]]:
    rates, lines = Machine.measure(scale.device), []
    dense = [nn.Parameter(torch.randn(shape, device=scale.device, dtype=torch.bfloat16) * 0.02) for shape in scale.llama]
    for weight in dense:
        weight.grad = torch.randn_like(weight) * 1e-3
    calls = {"torch fused over all": torch.optim.AdamW(dense, lr=1e-5, fused=True).step}
    moved = {}
    for kind in ("rows", "columns"):
        values = compact(kind, dense)
        calls[kind] = clm.SparseAdamW(values, lr=1e-5).step
        per_entry = 3 * 2 + 3 * 2 * 4  # gradient, values, dense weight; both moments and the master, read and written
        moved[kind] = sum(per_entry * v.numel() + v.entries.index.nbytes for v in values)
    seconds = rotated(calls, Timer(scale.device), scale.rounds)
    milliseconds = {name: 1e3 * statistics.median(values) for name, values in seconds.items()}
    for kind, bytes_ in moved.items():
        of = f"adamw_step_, 1 % {kind} of Llama-2-7B's linears: "
        lines.append(line(of + "share of the copy bandwidth", bytes_ / statistics.median(seconds[kind]) / rates.copy))
        lines.append(line(of + "torch fused over all / ours", ratio(seconds, "torch fused over all", kind)))
    lines.append(line("adamw_step_, 1 % rows of Llama-2-7B's linears: kernels launched", launches(calls["rows"], scale)))
    for each in lines:
        each["milliseconds"] = milliseconds
    return lines + launch_bound(scale)


def compact(kind: str, dense: list[nn.Parameter]) -> list[clm.Values]:
    """1 % of each weight, with a gradient."""
    values = []
    for weight in dense:
        values.append(clm.Values(weight, some_entries(kind, tuple(weight.shape), 0.01).to(weight.device)))
        values[-1].grad = torch.randn_like(values[-1]) * 1e-3
    return values


def launches(step: Callable[[], object], scale: Scale) -> float:
    """Kernels of one call; copies and fills of memory are none."""
    if scale.device.type == "cpu":
        return math.nan
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as recorded:
        step()
        torch.cuda.synchronize()
    on_device = [e for e in recorded.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    return sum(not event.name.startswith(("Memcpy", "Memset", "Optimizer")) for event in on_device)


def launch_bound(scale: Scale) -> list[dict[str, object]]:
    dense = [nn.Parameter(torch.randn(shape, device=scale.device, dtype=torch.bfloat16) * 0.02) for shape in scale.bert]
    step = clm.SparseAdamW(compact("rows", dense), lr=1e-5).step
    device = rotated({"step": step}, Timer(scale.device), 4 * scale.rounds)["step"]
    host = []
    for _ in range(4 * scale.rounds):
        start = time.perf_counter()
        step()
        host.append(time.perf_counter() - start)
        synchronize(scale)
    of = "adamw_step_, 1 % rows of BERT-base: microseconds on the "
    return [line(of + "device", 1e6 * statistics.median(device)), line(of + "host", 1e6 * statistics.median(host))]


def synchronize(scale: Scale) -> None:
    if scale.device.type == "cuda":
        torch.cuda.synchronize()


def products(scale: Scale) -> list[dict[str, object]]:
    out, inner, tokens = scale.product
    dy, x = (torch.randn(tokens, n, device=scale.device, dtype=torch.bfloat16) for n in (out, inner))
    ways = implementations(scale.device)
    densities = {"rows": 0.02, "columns": 0.02, "blocks": 0.02, "elements": 0.01}
    entries = {kind: some_entries(kind, (out, inner), density).to(scale.device) for kind, density in densities.items()}
    lines = []
    for kind, selected in entries.items():
        calls: dict[str, Callable[[], Tensor]] = {
            "dense product": lambda: dy.T @ x,
            "dense product + gather": lambda selected=selected: ops.gather(dy.T @ x, selected),
        }
        names = [name for name in ways if name != "reference"]
        calls |= {name: partial(ways[name], dy, x, selected.index, selected.layout, dy.dtype) for name in names}
        expected = ops.gather(dy.double().T @ x.double(), selected).float()
        for name in names:
            error = (calls[name]().float() - expected).norm() / expected.norm()
            assert error < 1e-2, f"{name}, {kind}: {error:.1e} from float64's gradient"
        seconds = rotated(calls, Timer(scale.device), scale.rounds)
        best = min(names, key=lambda name: statistics.median(seconds[name]))
        of = f"weight_grad 4096x4096, T=8192, {densities[kind]:.0%} {kind}: ".replace("%", " %")
        details = {"implementation": best, "milliseconds": {name: 1e3 * statistics.median(s) for name, s in seconds.items()}}
        extra = peak_extra(calls[best], scale)
        if kind == "elements":
            lines.append(
                line(of + "ours / (dense product + gather)", 1 / ratio(seconds, "dense product + gather", best), **details)
            )
            allowed = 2 * selected.index.numel() * dy.itemsize + (4 << 22)  # one strip of float32
            lines.append(line(of + "extra memory / (2 compact gradients + a strip)", extra / allowed))
        else:
            lines.append(line(of + "dense product / ours", ratio(seconds, "dense product", best), **details))
        if kind == "rows":
            lines.append(line(of + "extra memory / the dense gradient", extra / (out * inner * dy.itemsize)))
    return lines


def peak_extra(call: Callable[[], object], scale: Scale) -> float:
    """Bytes allocated at most during the call."""
    if scale.device.type == "cpu":
        return math.nan
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    return torch.cuda.max_memory_allocated() - before


def step(scale: Scale) -> list[dict[str, object]]:
    """Whole training steps in bf16: recorded in a CUDA graph, and with the model under `torch.compile`."""
    lines = []
    for how, make in (("CUDA graph", graphed), ("torch.compile", compiled)):
        calls = {name: make(*trained(name, scale), scale) for name in ("full", "ours")}
        seconds = rotated(calls, Timer(scale.device, flush=False), 2 * scale.rounds)
        what = f"step of BERT-base, 32x128, bf16, 3 % columns, {how}: full / ours"
        milliseconds = {name: 1e3 * statistics.median(values) for name, values in seconds.items()}
        lines.append(line(what, ratio(seconds, "full", "ours"), milliseconds=milliseconds))
    return lines


def trained(name: str, scale: Scale) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = BertForSequenceClassification(scale.config).to(scale.device, torch.bfloat16).train()
    lr = torch.tensor(1e-5, device=scale.device)
    if name == "ours":
        clm.patch(model, random_selection(model, density=0.03))
        return model, clm.SparseAdamW(model.parameters(), lr=lr, capturable=True)
    return model, torch.optim.AdamW(model.parameters(), lr=lr, fused=True, capturable=scale.device.type == "cuda")


def inputs(scale: Scale) -> dict[str, Tensor]:
    ids = torch.randint(1000, 30000, scale.batch, device=scale.device)
    labels = torch.randint(0, scale.config.num_labels, scale.batch[:1], device=scale.device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def graphed(model: nn.Module, optimizer: torch.optim.Optimizer, scale: Scale) -> Callable[[], object]:
    batch = inputs(scale)

    def once() -> None:
        optimizer.zero_grad(set_to_none=False)
        model(**batch).loss.backward()
        optimizer.step()

    if scale.device.type == "cpu":
        return once
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(4):
            once()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        once()
    return graph.replay


def compiled(model: nn.Module, optimizer: torch.optim.Optimizer, scale: Scale) -> Callable[[], object]:
    batch = inputs(scale)
    forward = torch.compile(model) if scale.device.type == "cuda" else model

    def once() -> None:
        forward(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return once


PARTS = {"adamw": adamw, "products": products, "step": step}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[])
    parser.add_argument("--output", type=Path, help="folder for gpu.json; benchmarks/results/<gpu> by default")
    given = parser.parse_args()
    on_gpu = torch.cuda.is_available()
    torch.manual_seed(0)
    scale, rows = Scale.of(on_gpu), []
    for part in given.parts or PARTS:
        for each in PARTS[part](scale):
            rows.append(each)
            outcome = f"{each['measured']:g} (reach {each['reach']})" if on_gpu else "runs"
            print(f"{each['what']}: {outcome}", flush=True)
    if not on_gpu:
        print("dry run on the CPU, over small shapes: nothing was measured and nothing is kept")
        return
    write((given.output or folder(scale.device)) / "gpu.json", {"machine": machine(scale.device), "rows": rows})


if __name__ == "__main__":
    main()
