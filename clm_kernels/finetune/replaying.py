"""`--replay`: the training texts run through the frozen lower layers once, before the first epoch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

from ..models.replay import INPUTS, replay
from ..models.structure import number_of_layers
from .encode import Encoded
from .report import Report


@contextmanager
def replaying(
    wanted: bool, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, train: Encoded, args: TrainingArguments,
    report: Report, say: Callable[[str], None],
) -> Iterator[None]:  # fmt: skip
    """A context in which a model that is ready for training replays its lower layers; nothing changes unless that is wanted.

    The texts run by length, and not as training draws them, so that a resumed run replays the same numbers.
    """
    if not wanted:
        yield
        return
    started = time.perf_counter()
    dtype = torch.float16 if args.fp16 else torch.bfloat16
    with replay(model) as kept:
        with torch.autocast(args.device.type, dtype, enabled=args.fp16 or args.bf16):
            kept.fill(by_length(train, tokenizer, args.per_device_eval_batch_size, args.device))
        report.seconds["replay"] = time.perf_counter() - started
        say(
            f"replaying {kept.layers} of {number_of_layers(model)} layers; what they gave for {kept.texts:,} texts takes "
            f"{kept.nbytes / 1e6:,.0f} MB"
        )
        yield


def by_length(
    encoded: Encoded, tokenizer: PreTrainedTokenizerBase, size: int, device: torch.device
) -> Iterator[dict[str, Tensor]]:
    """Batches of the texts, longest first, without labels."""
    rows = encoded.dataset.select_columns([name for name in INPUTS if name in encoded.dataset.column_names])
    lengths = list(encoded.dataset["length"])
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    for start in range(0, len(order), size):
        batch = tokenizer.pad(rows.select(order[start : start + size]).to_dict(), return_tensors="pt")
        yield {name: tensor.to(device) for name, tensor in batch.items()}
