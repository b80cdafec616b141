"""A run that diverges is ended where its numbers stop being finite: no result and no checkpoint is made of them."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from transformers import TrainerState, TrainingArguments


class Diverged(RuntimeError):
    """A loss or a weight is not finite any more."""


def check_loss(loss: Tensor | float, kind: str, step: int, args: TrainingArguments, state: TrainerState) -> None:
    """Raises `Diverged` for a loss that is not finite; of a tensor that waits for the device.

    Args:
        kind: of the loss, as the message has it.
        step: the one that is at work, from 1 on.
    """
    value = float(loss)
    if not math.isfinite(value):
        raise Diverged(_told(f"a {kind} loss of {value} in step {step}", args, state))


def check_weights(trained: Iterable[Tensor], args: TrainingArguments, state: TrainerState) -> None:
    """Raises `Diverged` for weights that are not finite: those of a last step, whose gradients have ended no loss yet."""
    whole = [weight.detach().isfinite().all() for weight in trained]
    if whole and not torch.stack(whole).all():
        raise Diverged(_told(f"weights that are not finite after step {state.global_step}", args, state))


def _told(what: str, args: TrainingArguments, state: TrainerState) -> str:
    got = f"{args.learning_rate:g} and {what} of {state.max_steps}"
    advice = "give a lower one"
    if args.fp16 or args.bf16:
        advice += f", or precision {'bf16 or float32' if args.fp16 else 'float32'}"
    if state.best_global_step:
        advice += "; resume would come to this step again, overwrite begins anew"
    return f"train: learning_rate must be low enough that losses and weights stay finite, got {got} ({advice})"
