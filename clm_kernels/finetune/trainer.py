"""transformers' Trainer as one run uses it: arguments, order of examples, progress, interruption."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.data import Sampler
from transformers import EarlyStoppingCallback, ProgressCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler

from .artifacts import CHECKPOINTS
from .config import Run, Training
from .encode import IGNORED
from .teaching import ROW, WEIGHT, Teaching


def arguments(training: Training, run: Run, best: str) -> TrainingArguments:
    """What the Trainer is told; `best` is the score that picks the best checkpoint."""
    every = {"eval_strategy": "epoch", "save_strategy": "epoch", "logging_strategy": "epoch"}
    if training.eval_steps:
        every = {f"{what}_strategy": "steps" for what in ("eval", "save", "logging")}
        every |= {f"{what}_steps": training.eval_steps for what in ("eval", "save", "logging")}
    return TrainingArguments(
        output_dir=str(Path(run.output) / CHECKPOINTS), **every, save_total_limit=2, load_best_model_at_end=True, metric_for_best_model=best,
        per_device_train_batch_size=training.batch_size, per_device_eval_batch_size=2 * training.batch_size,
        num_train_epochs=training.epochs, max_grad_norm=training.max_grad_norm,
        gradient_accumulation_steps=training.gradient_accumulation,
        learning_rate=training.learning_rate, weight_decay=training.weight_decay,
        warmup_steps=training.warmup, lr_scheduler_type=training.scheduler,
        seed=run.seed, bf16=training.precision == "bf16", fp16=training.precision == "fp16",
        restore_callback_states_from_checkpoint=True,
        average_tokens_across_devices=False,  # else each process multiplies a loss that is a mean already by their number
        report_to=run.report_to.split(","), disable_tqdm=not sys.stderr.isatty(),
        use_cpu=not torch.accelerator.is_available(), dataloader_pin_memory=torch.accelerator.is_available(),
    )  # fmt: skip


class RunTrainer(Trainer):
    """Trainer whose order of training examples depends on seed and epoch alone.

    So a run that goes on in the middle of an epoch sees the batches that it would have seen without the break.

    Args:
        teaching: leaves examples out; None: every example is read in every epoch.
        given: what `Trainer` takes.
    """

    def __init__(self, *, teaching: Teaching | None = None, **given: Any):
        if teaching is not None:
            rows = given["train_dataset"]
            given |= {
                "train_dataset": rows.add_column(ROW, list(range(len(rows)))),
                "data_collator": teaching.collate(given["data_collator"]),
            }
        super().__init__(**given)
        self.teaching = teaching
        self._trained: list[torch.nn.Parameter] | None = None
        # Classifiers take no notice of num_items_in_batch: a loss that is a mean must be divided by the accumulated batches.
        self.model_accepts_loss_kwargs = False

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        rows, weights = inputs.pop(ROW, None), inputs.pop(WEIGHT, None)
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if loss.dtype.itemsize < 4:  # of bfloat16's three digits a mean over the batch would leave two
            logits = outputs["logits"].float().flatten(0, -2)
            loss = F.cross_entropy(logits, inputs["labels"].flatten(), ignore_index=IGNORED)
        if rows is not None:
            loss = self.teaching.loss(loss, outputs["logits"], inputs["labels"], rows, weights)
        return (loss, outputs) if return_outputs else loss

    def floating_point_ops(self, inputs) -> int:
        """Not counted: that would walk through all modules at each step, which takes long beside one that trains a head alone."""
        return 0

    def _clip_grad_norm(self, model):
        """As transformers does it, without a walk through all modules for what is frozen."""
        if self._trained is None:
            self._trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return self.accelerator.clip_grad_norm_(self._trained, self.args.max_grad_norm)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        self._signature_columns = list({*self._signature_columns, ROW})

    def _get_train_sampler(self, train_dataset=None) -> Sampler:
        lengths = list(self.train_dataset["length"])  # the dataset given here has lost that column already
        step = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return EpochSampler(step, lengths, self.args.seed)


class EpochSampler(LengthGroupedSampler):
    """Batches of texts of like length, drawn anew for each epoch."""

    def __init__(self, batch_size: int, lengths: list[int], seed: int):
        super().__init__(batch_size, lengths=lengths, generator=torch.Generator())
        self.seed = seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        self.generator.manual_seed(self.seed + epoch)


class Bar(ProgressCallback):
    """The Trainer's progress bar without its dump of every log."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        pass


class Progress(TrainerCallback):
    """Times the training of each epoch, without validation, and says one line after each validation."""

    def __init__(self, best: str, say: Callable[[str], None]):
        self.best, self.say = best, say
        self.seconds: list[float] = []

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.started, self.validating = time.perf_counter(), 0.0

    def on_epoch_end(self, args, state, control, **kwargs):
        self.seconds.append(time.perf_counter() - self.started - self.validating)

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        self.validating += metrics["eval_runtime"]
        losses = [f"loss {entry['loss']:.4f}, " for entry in state.log_history if "loss" in entry]
        seconds = f", {self.seconds[-1]:.1f} s" if self.seconds else ""
        score = f"validation {self.best} {metrics[f'eval_{self.best}']:.4f}"
        self.say(f"epoch {state.epoch:g} of {args.num_train_epochs:g}: {''.join(losses[-1:])}{score}{seconds}")


class Interruption(TrainerCallback):
    """Turns the first Ctrl-C into a checkpoint after the running step, and the second one into a stop at once."""

    def __init__(self, say: Callable[[str], None]):
        self.say, self.asked, self.former = say, False, None

    def __enter__(self) -> Interruption:
        try:
            self.former = signal.signal(signal.SIGINT, self._ask)
        except ValueError:  # not in the main thread: whoever runs it there handles Ctrl-C
            self.former = None
        return self

    def __exit__(self, error, *_) -> None:
        if self.former is not None:
            signal.signal(signal.SIGINT, self.former)
        if self.asked and error is None:
            raise KeyboardInterrupt

    def _ask(self, number, frame) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        self.say("stopping after this step, with a checkpoint; press Ctrl-C again to stop at once")

    def on_step_end(self, args, state, control, **kwargs):
        ends_epoch = args.save_strategy == "epoch" and float(state.epoch).is_integer()
        if self.asked and not ends_epoch:  # at its end, the epoch is first validated and then saved anyway
            control.should_save = True

    def on_save(self, args, state, control, **kwargs):
        if self.asked:
            raise KeyboardInterrupt


def early_stopping(patience: int | None) -> list[TrainerCallback]:
    return [EarlyStoppingCallback(patience)] if patience else []


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint."""
    return max(filter(_is_whole, folder.glob("checkpoint-*")), key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def drop_broken_checkpoints(folder: Path) -> None:
    """Removes checkpoints that were being written when a run was stopped."""
    for checkpoint in folder.glob("checkpoint-*"):
        if not _is_whole(checkpoint):
            shutil.rmtree(checkpoint)


def drop_checkpoints(folder: Path) -> None:
    """Removes all checkpoints, and the folder unless something else, as a logger's files, stands in it."""
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    if folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir()):
        folder.rmdir()


def _is_whole(checkpoint: Path) -> bool:
    """Whether it has all its files: the Trainer writes trainer_state.json last."""
    try:
        return bool(json.loads((checkpoint / "trainer_state.json").read_text()))
    except (OSError, ValueError):
        return False
