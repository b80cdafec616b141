"""``python -m benchmarks.estimate``: predicted against measured peak memory of training steps, for every method.

Writes ``estimate.json``; also what Llama-2-7B's shape would take, which is not measured on a CPU.
"""

from __future__ import annotations

import argparse
import gc
import itertools
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers import BertConfig, LlamaConfig, PretrainedConfig

from clm_kernels.finetune.config import TrainConfig
from clm_kernels.measure.estimate import estimate
from clm_kernels.measure.profiling import profiling
from clm_kernels.measure.subject import batch, build, prepare, resolved

from .common import folder, machine, write

REACH = 0.1
SEVEN_B = 18.0  # gigabytes that sparse at 1 % columns may take of Llama-2-7B's shape, 8 x 64 tokens, bf16
CONFIGS = {
    "MiniLM": BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536, num_labels=77),
    "small Llama": LlamaConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=8, num_key_value_heads=4, intermediate_size=1024,
        vocab_size=16000, num_labels=77, pad_token_id=0,
    ),
}  # fmt: skip
LLAMA_7B = LlamaConfig(
    hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, intermediate_size=11008, vocab_size=32000, num_labels=77,
    max_position_embeddings=4096, pad_token_id=0,
)  # fmt: skip
METHODS = {
    "full": TrainConfig(method="full"),
    "head": TrainConfig(method="head"),
    "sparse, 1 % columns": TrainConfig(kind="columns", density=0.01),
    "sparse, 1 % columns, norms recomputed": TrainConfig(kind="columns", density=0.01, recompute_norms=True),
    "sparse, 1 % rows": TrainConfig(kind="rows", density=0.01),
    "sparse, 10 % blocks": TrainConfig(kind="blocks", density=0.1),
    "LoRA, query and value": TrainConfig(method="lora"),
    "LoRA, query and value, norms recomputed": TrainConfig(method="lora", recompute_norms=True),
    "LoRA, all linear": TrainConfig(method="lora", lora_targets="all-linear"),
}
SHAPES = ((8, 64), (2, 128))
VARIED = (
    "method", "kind", "density", "lora_targets", "lora_rank", "recompute_norms", "batch_size", "dtype", "gradient_checkpointing",
)  # fmt: skip


def measured(model: PretrainedConfig, config: TrainConfig, length: int, device: str) -> int:
    """Peak bytes of a training step, by the allocator's own account."""
    torch.manual_seed(0)
    config = resolved(config, model, length, "measured")
    prepared, inputs = prepare(build(model, config, device), config), batch(config, length, device)
    with profiling(prepared.model, prepared.optimizer, steps=1, warm_up=2) as profiled:
        for _ in range(4):
            prepared.model(**inputs).loss.backward()
            prepared.optimizer.step()
            prepared.optimizer.zero_grad()
    peak = profiled.report.peak
    del prepared, profiled
    gc.collect()
    return peak


def cases() -> list[tuple[str, str, TrainConfig, int]]:
    """Model, method, config and tokens a text of each configuration."""
    return [
        (model, method, replace(config, batch_size=texts, dtype=dtype, gradient_checkpointing=checkpointing), length)
        for model, (method, config), (texts, length), dtype, checkpointing in itertools.product(
            CONFIGS, METHODS.items(), SHAPES, ("float32", "bfloat16"), (False, True)
        )
    ]


def recorded(config: TrainConfig, length: int) -> dict[str, object]:
    """What varies from configuration to configuration."""
    options = config.options()
    return {name: options[name] for name in VARIED} | {"length": length}


def seven_b() -> list[dict[str, object]]:
    """Llama-2-7B's shape on a GPU, predicted."""
    rows = []
    for (method, config), checkpointing in itertools.product(METHODS.items(), (False, True)):
        config = replace(config, batch_size=8, dtype="bfloat16", gradient_checkpointing=checkpointing)
        found = estimate(LLAMA_7B, config, 64, "cuda")
        reach = f"<= {SEVEN_B:g} GB" if method.startswith("sparse, 1 % columns") else None
        rows.append({"method": method, "work": recorded(config, 64), "estimate": found.as_dict(), "reach": reach})
    return rows


def main(device: str, output: Path) -> None:
    rows = []
    for model, method, config, length in track(cases(), description="training", transient=True):
        predicted = estimate(CONFIGS[model], config, length, device)
        found = measured(CONFIGS[model], config, length, device)
        ratio = predicted.peak / found
        rows.append({
            "model": model, "method": method, "work": recorded(config, length), "estimate": predicted.as_dict(),
            "measured": found, "ratio": round(ratio, 4), "met": abs(ratio - 1) <= REACH,
        })  # fmt: skip
    large = seven_b()
    stored = {"machine": machine(device), "reach": REACH, "rows": rows, "Llama-2-7B's shape, not measured": large}
    write(output / "estimate.json", stored)
    console, table = Console(width=140), Table("model", "method", "predicted / measured, least", "most", "within 10 %")
    for (model, method), group in itertools.groupby(rows, lambda row: (row["model"], row["method"])):
        group = list(group)
        ratios = [row["ratio"] for row in group]
        met = sum(row["met"] for row in group)
        table.add_row(model, method, f"{min(ratios):.3f}", f"{max(ratios):.3f}", f"{met} of {len(group)}")
    console.print(table)
    table = Table("Llama-2-7B's shape, 8 x 64 tokens, bfloat16", "checkpointing", "peak, predicted", "TFLOPs", "reach")
    for row in large:
        found = row["estimate"]
        checkpointing = "yes" if row["work"]["gradient_checkpointing"] else "no"
        table.add_row(row["method"], checkpointing, f"{found['peak'] / 1e9:.2f} GB", f"{found['flops'] / 1e12:.1f}", row["reach"])
    console.print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--output", type=Path, help="folder for estimate.json; that of the device's results by default")
    given = parser.parse_args()
    main(given.device, given.output or folder(given.device))
