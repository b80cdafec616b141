"""Steps of Llama-2-7B's shape beside PEFT's LoRA: ``python -m benchmarks.gpu.llama [--output DIR]`` writes llama.json.

Random weights in bf16, 8 texts of 64 tokens (arXiv 2310.01208).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import torch
from transformers import LlamaConfig

from clm_kernels.measure.bench.timing import Timer, rotated
from clm_kernels.measure.estimate import Work, batch, build, estimate, prepare

from ..common import ratio
from ..estimate import LLAMA_7B, METHODS
from .reach import LLAMA
from .scale import Scale, line, milliseconds, run_part

OURS, LORA = "sparse, 1 % columns", "LoRA, all linear"
SMALL = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
    "head_dim": 16,
}  # fmt: skip


def rows(scale: Scale) -> Iterator[dict[str, object]]:
    config, shape = copy.deepcopy(LLAMA_7B), {"batch": 8, "length": 64, "precision": "bf16"}
    if not scale.on_gpu:
        shape |= {"batch": 2, "length": 8}
        config.update(SMALL)
    works = {name: Work(**{**vars(METHODS[name]), **shape}) for name in (OURS, LORA)}
    steps, peaks = {}, {}
    for name, work in works.items():
        steps[name], peaks[name] = stepper(work, config, scale)
        if name == OURS:
            predicted = estimate(config, work, scale.device.type).peak
            yield line(LLAMA + "peak GB", peaks[name] / 1e9, peak=peaks[name], estimated=predicted)
    seconds = rotated(steps, Timer(scale.device, flush=False, whole=True), scale.rounds)
    details = {"milliseconds": milliseconds(seconds), "peaks": peaks}
    yield line(LLAMA + "time / LoRA's on all linears", ratio(seconds, OURS, LORA), **details)


def stepper(work: Work, config: LlamaConfig, scale: Scale) -> tuple[Callable[[], None], int]:
    """A training step, and the most bytes that its tensors take, the model's among them."""
    before = torch.cuda.memory_allocated() if scale.on_gpu else 0
    model, optimizer = prepare(build(config, work, scale.device), work)
    inputs = batch(model, work, scale.device)

    def step() -> None:
        model(**inputs).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(3):
        step()
    if not scale.on_gpu:
        return step, 0
    torch.cuda.reset_peak_memory_stats()
    step()
    return step, torch.cuda.max_memory_allocated() - before


if __name__ == "__main__":
    run_part("llama", __doc__, rows)
