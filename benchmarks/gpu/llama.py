"""Steps of Llama-2-7B's shape beside PEFT's LoRA: ``python -m benchmarks.gpu.llama [--output DIR]`` writes llama.json.

Random weights in bf16, 8 texts of 64 tokens (arXiv 2310.01208).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from transformers import LlamaConfig

from clm_kernels.finetune.config import TrainConfig
from clm_kernels.measure.bench.timing import Timer, rotated
from clm_kernels.measure.estimate import estimate
from clm_kernels.measure.subject import batch, build, prepare, resolved

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
    model, texts, length = copy.deepcopy(LLAMA_7B), 8, 64
    if not scale.on_gpu:
        texts, length = 2, 8
        model.update(SMALL)
    steps, peaks = {}, {}
    for name in (OURS, LORA):
        config = resolved(replace(METHODS[name], batch_size=texts, dtype="bfloat16"), model, length, "llama")
        steps[name], peaks[name] = stepper(model, config, length, scale)
        if name == OURS:
            predicted = estimate(model, config, length, scale.device.type).peak
            yield line(LLAMA + "peak GB", peaks[name] / 1e9, peak=peaks[name], estimated=predicted)
    seconds = rotated(steps, Timer(scale.device, flush=False, whole=True), scale.rounds)
    details = {"milliseconds": milliseconds(seconds), "peaks": peaks}
    yield line(LLAMA + "time / LoRA's on all linears", ratio(seconds, OURS, LORA), **details)


def stepper(model: LlamaConfig, config: TrainConfig, length: int, scale: Scale) -> tuple[Callable[[], None], int]:
    """A training step, and the most bytes that its tensors take, the model's among them."""
    before = torch.cuda.memory_allocated() if scale.on_gpu else 0
    prepared = prepare(build(model, config, scale.device), config)
    inputs = batch(config, length, scale.device)

    def step() -> None:
        prepared.model(**inputs).loss.backward()
        prepared.optimizer.step()
        prepared.optimizer.zero_grad()

    for _ in range(3):
        step()
    if not scale.on_gpu:
        return step, 0
    torch.cuda.reset_peak_memory_stats()
    step()
    return step, torch.cuda.max_memory_allocated() - before


if __name__ == "__main__":
    run_part("llama", __doc__, rows)
