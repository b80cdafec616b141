"""A whole training step in a CUDA graph: ``python -m benchmarks.gpu.step [--output DIR]`` writes step.json."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from transformers import BertForSequenceClassification

import clm_kernels as clm
from clm_kernels.measure.bench.timing import Timer, rotated
from clm_kernels.selecting.units.dealing import dealt_groups

from ..common import ratio
from .reach import STEP
from .scale import Scale, line, milliseconds, run_part

ENERGY = {"ours": 1, "active": 0.95}


def rows(scale: Scale) -> Iterator[dict[str, object]]:
    calls = {name: captured(*trained(name, scale), scale) for name in ("full", "ours")}
    seconds = rotated(calls, Timer(scale.device, flush=False), 2 * scale.rounds)
    yield line(STEP + "full / ours", ratio(seconds, "full", "ours"), milliseconds=milliseconds(seconds))


def trained(name: str, scale: Scale) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = BertForSequenceClassification(scale.config).to(scale.device, torch.bfloat16).train()
    lr = torch.tensor(1e-5, device=scale.device)
    if name in ENERGY:
        clm.patch(model, dealt_groups(model), energy=ENERGY[name])
        return model, clm.SparseAdamW(model.parameters(), lr=lr, capturable=True)
    return model, torch.optim.AdamW(model.parameters(), lr=lr, fused=True, capturable=scale.on_gpu)


def inputs(scale: Scale) -> dict[str, Tensor]:
    ids = torch.randint(1000, 30000, scale.batch, device=scale.device)
    labels = torch.randint(0, scale.config.num_labels, scale.batch[:1], device=scale.device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def captured(model: nn.Module, optimizer: torch.optim.Optimizer, scale: Scale) -> Callable[[], object]:
    """Replays of a step; without a GPU the step itself."""
    batch = inputs(scale)

    def once() -> None:
        optimizer.zero_grad(set_to_none=False)
        model(**batch).loss.backward()
        optimizer.step()

    if not scale.on_gpu:
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


if __name__ == "__main__":
    run_part("step", __doc__, rows)
