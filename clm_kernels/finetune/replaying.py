"""`--replay`: the training texts run through the frozen lower layers once, before the first epoch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

from ..models.features import run_once
from ..models.keeping import INPUTS, Keeping, Last
from ..models.structure import number_of_layers
from .config import Training
from .encode import Encoded
from .report import Report

Say = Callable[[str], None]


@contextmanager
def replaying(
    wanted: bool, model: PreTrainedModel, training: Training, tokenizer: PreTrainedTokenizerBase, train: Encoded,
    args: TrainingArguments, report: Report, say: Say, last: Last | None = None,
) -> Iterator[Keeping | None]:  # fmt: skip
    """A context in which a model that is ready for training replays its lower layers; nothing changes unless that is wanted.

    The texts run by length, and not as training draws them, so that a resumed run replays the same numbers. Where replay is
    the default and the model has none, a line says why, and nothing changes.

    Args:
        last: what the layers gave in the run before this one, if that is to be taken over where it is the same.

    Raises:
        ValueError: if the config asks for it and the model has none.
        OSError: if its file cannot be read or written.
    """
    started, lower, one_before = time.perf_counter(), None, bool(last and last.made_by)
    with ExitStack() as undo:
        if wanted:
            try:
                lower = undo.enter_context(run_once(model))
                texts = by_length(train, tokenizer, args.per_device_eval_batch_size, args.device)
                _fill(lower, training, texts, args, last)
            except ValueError as error:
                if training.replay:
                    raise
                undo.close()
                say(f"every epoch runs every layer, as there is no replay: {error}")
                lower = None
        if lower is not None:
            report.seconds["replay"] = time.perf_counter() - started
            file = f" ({training.replay_file}: {lower.file})" if lower.file else ""
            other = ", run anew for other texts or layers than in the task before" if one_before and not lower.file else ""
            before = ", as the task before gave it" if lower.taken_over else other
            say(
                f"replaying {lower.layers} of {number_of_layers(model)} layers; what they gave for {lower.texts:,} "
                f"{'windows' if train.windows else 'texts'} takes "
                f"{lower.nbytes / 1e6:,.0f} MB{file}{before}"
            )
        yield lower


def _fill(
    lower: Keeping, training: Training, batches: Iterator[dict[str, Tensor]], args: TrainingArguments, last: Last | None
) -> None:
    dtype = torch.float16 if args.fp16 else torch.bfloat16
    with torch.autocast(args.device.type, dtype, enabled=args.fp16 or args.bf16):
        lower.fill(batches, training.replay_file, last)


def by_length(
    encoded: Encoded, tokenizer: PreTrainedTokenizerBase, size: int, device: torch.device
) -> Iterator[dict[str, Tensor]]:
    """Batches of the texts, longest first, without labels."""
    rows = encoded.dataset.select_columns([name for name in INPUTS if name in encoded.dataset.column_names])
    lengths = np.fromiter(encoded.dataset["length"], np.int64, len(encoded.dataset))
    order = np.argsort(-lengths, kind="stable")
    for start in range(0, len(order), size):
        batch = tokenizer.pad(rows.select(order[start : start + size]).to_dict(), return_tensors="pt")
        yield {name: tensor.to(device) for name, tensor in batch.items()}
