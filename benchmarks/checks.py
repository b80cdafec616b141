"""What it costs to check, at every step, that tensors are what they were. ``python -m benchmarks checks``.

A model with BERT-base's layers and parameters, each tiny and one token long, so that a step takes what the host takes for it: on a
GPU that would be the time to enqueue it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from unittest.mock import patch

import torch
from transformers import BertConfig, BertForSequenceClassification

import clm_kernels as clm
from clm_kernels.ops import schemas
from clm_kernels.optim import batch
from clm_kernels.selecting.units.control import random_selection

from .common import interleaved, keep, medians, row
from .step import step

AT_EVERY_STEP, IN_BACKWARD = "the optimizer's", "the backward's"


def training() -> Callable[[], None]:
    torch.manual_seed(0)
    size = {"hidden_size": 24, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 48}
    model = BertForSequenceClassification(BertConfig(**size, num_labels=77)).train()
    clm.patch(model, random_selection(model, density=0.1, kind="rows"), biases=True, norms=True)
    return step(model, clm.SparseAdamW(model.parameters(), lr=1e-5), batch=1, length=1)


def without(call: Callable[[], None], *replaced: tuple[object, str, Callable]) -> Callable[[], None]:
    """The step without some checks: what they would say is put in their place."""

    def run() -> None:
        patches = [patch.object(owner, name, with_this) for owner, name, with_this in replaced]
        for one in patches:
            one.start()
        call()
        for one in patches:
            one.stop()

    return run


def main(rounds: int = 300) -> list[dict[str, object]]:
    call = training()
    torch.set_num_threads(1)
    optimizer = (batch.Batch, "holds", lambda self: True), (batch, "form", lambda tensors: ())
    backward = (schemas, "_run_directly", schemas._run)
    ways = {
        "all": call,
        AT_EVERY_STEP: without(call, *optimizer),
        IN_BACKWARD: without(call, backward),
        "none": without(call, *optimizer, backward),
    }
    seconds = interleaved(ways, rounds)
    rows = []
    for name, left_out in (("optimizer", AT_EVERY_STEP), ("backward", IN_BACKWARD), ("all", "none")):
        share = statistics.median(1 - fast / slow for fast, slow in zip(seconds[left_out], seconds["all"], strict=True))
        reach = ("<= 0.05", share <= 0.05) if name == "optimizer" else ("not set", True)
        rows.append(row(f"checks between steps, BERT-base's tensors: {name}, share of a step's host time", share, *reach))
    rows[0]["milliseconds without"] = medians(seconds)
    keep("checks", rows)
    return rows


if __name__ == "__main__":
    main()
