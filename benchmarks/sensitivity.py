"""The sensitivity pass over 512 examples beside full fine-tuning's training on 512 examples."""

from __future__ import annotations

import torch

import clm_kernels as clm

from .common import interleaved, keep, medians, ratio, row
from .step import BATCH, LABELS, LENGTH, full, minilm


def main(rounds: int = 7) -> list[dict[str, object]]:
    generator = torch.Generator().manual_seed(1)
    batches = [
        {
            "input_ids": torch.randint(1000, 30000, (BATCH, LENGTH), generator=generator),
            "labels": torch.randint(0, LABELS, (BATCH,), generator=generator),
        }
        for _ in range(512 // BATCH)
    ]
    scored, (trained, optimizer) = minilm(), full()

    def train() -> None:
        for batch in batches:
            trained(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    variants = {kind: lambda kind=kind: clm.sensitivity(scored, batches, kind=kind) for kind in ("rows", "columns")}
    seconds = interleaved({"training": train, **variants}, rounds, warm_up=1)
    rows = []
    for kind in variants:
        share = ratio(seconds, kind, "training")
        rows.append(
            row(
                f"sensitivity of {kind}, 512 examples: time / training on them",
                share,
                "<= 1",
                share <= 1.0,
                milliseconds=medians(seconds),
            )
        )
    keep("sensitivity", rows)
    return rows


if __name__ == "__main__":
    main()
