"""Training steps of Llama-2-7B's shape on a GPU: ``python -m benchmarks.llama [--output DIR]`` writes llama.json there.

Random weights in bf16, 8 texts of 64 tokens (arXiv 2310.01208), sparse columns beside PEFT's LoRA. Without a GPU it is a dry run
over two small layers, which shows that everything here runs; its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Callable
from pathlib import Path

import torch

from clm_kernels.bench.timing import Timer, rotated
from clm_kernels.estimate import Work, batch, build, estimate, prepare

from .common import folder, machine, ratio, row, write
from .estimate import LLAMA_7B, METHODS

OURS, LEAN, WIDE, RECOMPUTED = "sparse, 1 % columns", "LoRA, query and value", "LoRA, all linear", ", norms recomputed"
OF = "step of Llama-2-7B's shape, 8x64, bf16, 1 % columns: "
REACH = {  # what -> (text, met)
    OF + "peak GB": ("<= 18", lambda x: x <= 18),
    OF + "peak / LoRA's (r 12, query and value)": ("<= 1", lambda x: x <= 1),
    OF + "peak with norms recomputed / LoRA's without": ("<= 1", lambda x: x <= 1),
    OF + "peak / LoRA's, both with norms recomputed": ("<= 1", lambda x: x <= 1),
    OF + "time / LoRA's on all linears": ("<= 0.8", lambda x: x <= 0.8),
    OF + "estimated peak / measured": ("0.9 to 1.1", lambda x: 0.9 <= x <= 1.1),
}
ROUNDS = 20


def stepper(work: Work, config, device: str) -> tuple[Callable[[], None], int]:
    """A training step, and the most bytes that its tensors take, the model's among them."""
    before = allocated(device)
    model, optimizer = prepare(build(config, work, device), work)
    inputs = batch(model, work, device)

    def step() -> None:
        model(**inputs).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(3):
        step()
    if device == "cpu":
        return step, 1
    torch.cuda.reset_peak_memory_stats()
    step()
    return step, torch.cuda.max_memory_allocated() - before


def allocated(device: str) -> int:
    return torch.cuda.memory_allocated() if device == "cuda" else 0


def rows(device: str) -> list[dict[str, object]]:
    config, shape = LLAMA_7B, {"batch": 8, "length": 64, "precision": "bf16"}
    if device == "cpu":
        config, shape = copy.deepcopy(config), {"batch": 2, "length": 8, "precision": "bf16"}
        config.update({"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4})
        config.update({"num_key_value_heads": 4, "head_dim": 16})
    steps, peaks, predicted = {}, {}, {}
    for name in (OURS, OURS + RECOMPUTED, LEAN, LEAN + RECOMPUTED, WIDE):
        work = Work(**{**vars(METHODS[name]), **shape})
        predicted[name] = estimate(config, work, device).peak
        steps[name], peaks[name] = stepper(work, config, device)
        print(f"{name}: peak {peaks[name]:,} bytes, estimated {predicted[name]:,}", flush=True)
    seconds = rotated(steps, Timer(torch.device(device), flush=False), ROUNDS if device == "cuda" else 2)
    measured = {
        "peak GB": peaks[OURS] / 1e9,
        "peak / LoRA's (r 12, query and value)": peaks[OURS] / peaks[LEAN],
        "peak with norms recomputed / LoRA's without": peaks[OURS + RECOMPUTED] / peaks[LEAN],
        "peak / LoRA's, both with norms recomputed": peaks[OURS + RECOMPUTED] / peaks[LEAN + RECOMPUTED],
        "time / LoRA's on all linears": ratio(seconds, OURS, WIDE),
        "estimated peak / measured": predicted[OURS] / peaks[OURS],
    }
    details = {
        "milliseconds": {name: 1e3 * statistics.median(values) for name, values in seconds.items()},
        "peaks": peaks,
        "estimated": predicted,
    }
    lines = []
    for what, value in measured.items():
        text, met = REACH[OF + what]
        lines.append(row(OF + what, value, text, met(value), **details))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="folder for llama.json; benchmarks/results/<gpu> by default")
    given, on_gpu = parser.parse_args(), torch.cuda.is_available()
    device = "cuda" if on_gpu else "cpu"
    torch.manual_seed(0)
    found = rows(device)
    for line in found:
        print(f"{line['what']}: {line['measured']:g} (reach {line['reach']})" if on_gpu else f"{line['what']}: runs")
    if not on_gpu:
        print("dry run on the CPU, over a small shape: nothing was measured and nothing is kept")
        return
    write((given.output or folder(device)) / "llama.json", {"machine": machine(device), "rows": found})


if __name__ == "__main__":
    main()
