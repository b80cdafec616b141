"""transformers' Trainer as one run uses it: arguments, order of examples, progress, the best checkpoint."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler
from transformers import EarlyStoppingCallback, ProgressCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler, get_length_grouped_indices

from ..patching.active import uncounted
from .artifacts import CHECKPOINTS
from .config import Run, Training
from .diverging import check_loss, check_weights
from .losses import mean_loss, weighed_loss
from .manifest import damage
from .processes.exchanged import Exchanged
from .processes.last_step import IDLE, Rounds, real_rows, with_filler, without_fillers
from .teaching import CAME, ROW, WEIGHT, Teaching, numbered, weighed


def arguments(training: Training, run: Run, best: str) -> TrainingArguments:
    """What the Trainer is told; `best` is the score that picks the best checkpoint."""
    every = {"eval_strategy": "epoch", "save_strategy": "epoch", "logging_strategy": "epoch"}
    if training.eval_steps:
        every = {f"{what}_strategy": "steps" for what in ("eval", "save", "logging")}
        every |= {f"{what}_steps": training.eval_steps for what in ("eval", "save", "logging")}
    return TrainingArguments(
        output_dir=str(Path(run.output) / CHECKPOINTS), **every, load_best_model_at_end=True, metric_for_best_model=best,
        per_device_train_batch_size=training.batch_size, per_device_eval_batch_size=2 * training.batch_size,
        num_train_epochs=training.epochs, max_grad_norm=training.max_grad_norm,
        gradient_accumulation_steps=training.gradient_accumulation,
        learning_rate=training.learning_rate, weight_decay=training.weight_decay,
        warmup_steps=training.warmup, lr_scheduler_type=training.scheduler,
        seed=run.seed, bf16=training.precision == "bf16", fp16=training.precision == "fp16",
        restore_callback_states_from_checkpoint=True,
        logging_nan_inf_filter=False,  # RunTrainer looks at each loss itself, which waits for the device no more often
        average_tokens_across_devices=False,  # else each process multiplies a loss that is a mean already by their number
        ddp_broadcast_buffers=False,  # none changes in training
        ddp_find_unused_parameters=True,  # a pooler's bias is trained, whether or not the pooling reads it
        report_to=run.report_to.split(","), disable_tqdm=not sys.stderr.isatty(),
        use_cpu=not torch.accelerator.is_available(), dataloader_pin_memory=torch.accelerator.is_available(),
    )  # fmt: skip


class RunTrainer(Trainer):
    """Trainer whose order of training examples depends on seed and epoch alone.

    So a run that goes on in the middle of an epoch sees the batches that it would have seen without the break.

    Args:
        teaching: leaves examples out; None: every example is read in every epoch.
        label_weights: of each label's loss in training, on the model's device.
        weights: of each example's loss in training; None: all alike.
        chances: with which each example is drawn; None: each once an epoch.
        given: what `Trainer` takes.
    """

    def __init__(
        self, *, teaching: Teaching | None = None, label_weights: Tensor | None = None, weights: Tensor | None = None,
        chances: Tensor | None = None, **given: Any,
    ):  # fmt: skip
        rows, args, collate = given["train_dataset"], given["args"], given["data_collator"]
        self.rounds: Rounds | None = None
        weighing = teaching.collate(collate) if teaching else weighed(collate, weights) if weights is not None else None
        if args.world_size > 1:
            self.rounds = Rounds(len(rows), args.train_batch_size, args.world_size, args.gradient_accumulation_steps)
            given |= {"train_dataset": with_filler(rows), "data_collator": without_fillers(collate, weighing)}
        elif weighing is not None:
            given |= {"train_dataset": numbered(rows), "data_collator": weighing}
        super().__init__(**given)
        self.exchanged = Exchanged()
        if args.world_size > 1:  # else all draw the same dropout, each for its own texts
            torch.manual_seed(args.seed + args.process_index)
        self.teaching, self.label_weights, self.chances = teaching, label_weights, chances
        self._trained: list[torch.nn.Parameter] | None = None
        # Classifiers take no notice of num_items_in_batch: a loss that is a mean must be divided by the accumulated batches.
        self.model_accepts_loss_kwargs = False

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        self.exchanged.watch(model)
        rows, weights, came = (inputs.pop(name, None) for name in (ROW, WEIGHT, CAME))
        idle = inputs.pop(IDLE, False)
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if self.label_weights is not None and model.training:
            loss = mean_loss(outputs["logits"], inputs["labels"], self.label_weights)
        elif loss.dtype.itemsize < 4:  # of bfloat16's three digits a mean over the batch would leave two
            loss = mean_loss(outputs["logits"], inputs["labels"])
        if rows is not None:
            loss = self.teaching.loss(loss, outputs["logits"], inputs["labels"], rows, weights, came)
        elif weights is not None:
            loss = weighed_loss(outputs["logits"], inputs["labels"], weights, self.label_weights)
        if model.training and self.rounds:
            loss = loss * (0.0 if idle else self.rounds.weight(self.state.global_step))
        return (loss, outputs) if return_outputs else loss

    def training_step(self, model, inputs, num_items_in_batch=None):
        """What a filler would tell of tokens is nobody's."""
        with uncounted(self.model) if IDLE in inputs else nullcontext():
            loss = super().training_step(model, inputs, num_items_in_batch)
        check_loss(loss, "training", self.state.global_step + 1, self.args, self.state)
        return loss

    def evaluate(self, *given, **named):
        metrics = super().evaluate(*given, **named)
        check_loss(metrics["eval_loss"], "validation", self.state.global_step, self.args, self.state)
        return metrics

    def _save_checkpoint(self, model, trial):
        check_weights(self._trained_weights(), self.args, self.state)
        super()._save_checkpoint(model, trial)

    def prediction_step(self, *given, **named):
        """Of the last batches, filled up with texts of the first, the loss is that of the real ones."""
        loss, logits, labels = super().prediction_step(*given, **named)
        state, size = self.accelerator.gradient_state, self.args.eval_batch_size
        if self.rounds and state.end_of_dataloader:
            real = real_rows(state.remainder, self.args.process_index, size)
            if 0 < real < len(labels):
                loss = mean_loss(logits[:real], labels[:real])
        return loss, logits, labels

    def best_checkpoint(self) -> Path:
        """The one with the best score, checked: else one that is gone would leave the last weights under the name of the best."""
        best = Path(self.state.best_model_checkpoint)
        if wrong := damage(best):
            raise RuntimeError(f"train: {str(best)!r}, the best checkpoint, must be as it was saved, got one of which {wrong}")
        return best

    def _load_best_model(self) -> None:
        self.best_checkpoint()
        super()._load_best_model()

    def _load_optimizer_and_scheduler(self, checkpoint) -> None:
        with _of_tensors_alone(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint) -> None:
        with _of_tensors_alone(checkpoint):
            super()._load_rng_state(checkpoint)

    def floating_point_ops(self, inputs) -> int:
        """Not counted: that would walk through all modules at each step, which takes long beside one that trains a head alone."""
        return 0

    def _clip_grad_norm(self, model):
        """As transformers does it, without a walk through all modules for what is frozen."""
        return self.accelerator.clip_grad_norm_(self._trained_weights(), self.args.max_grad_norm)

    def _trained_weights(self) -> list[torch.nn.Parameter]:
        if self._trained is None:
            self._trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        return self._trained

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        self._signature_columns = list({*self._signature_columns, ROW})

    def _get_train_sampler(self, train_dataset=None) -> Sampler:
        lengths = list(self.train_dataset["length"])  # the dataset given here has lost that column already
        if self.rounds:
            lengths = lengths[: self.rounds.examples]
        step = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        if self.chances is not None:
            found = BalancedSampler(step, lengths, self.args.seed, self.chances)
        else:
            found = EpochSampler(step, lengths, self.args.seed)
        self._order = FilledSampler(found, self.rounds) if self.rounds else found
        return self._order

    def _run_epoch(self, *, epoch, **given):
        self._order.set_epoch(epoch)  # which accelerate does not reach where a resumed run skips batches in several processes
        return super()._run_epoch(epoch=epoch, **given)


@contextmanager
def _of_tensors_alone(checkpoint: str | None) -> Iterator[None]:
    """Says in one line that torch, which reads a checkpoint without unpickling, has refused one of its files."""
    try:
        yield
    except UnpicklingError as error:
        expected, found = "of tensors and numbers", "a file with other objects, which may be code and are not read"
        raise ValueError(f"train: {str(checkpoint)!r} must be {expected}, got {found}") from error


class EpochSampler(LengthGroupedSampler):
    """Batches of texts of like length, drawn anew for each epoch."""

    def __init__(self, batch_size: int, lengths: list[int], seed: int):
        super().__init__(batch_size, lengths=lengths, generator=torch.Generator())
        self.seed = seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        self.generator.manual_seed(self.seed + epoch)


class BalancedSampler(EpochSampler):
    """The same of examples that are drawn by their chances, with replacement, as many as there are."""

    def __init__(self, batch_size: int, lengths: list[int], seed: int, chances: Tensor):
        self.ends = chances.double().cumsum(0)
        super().__init__(batch_size, lengths, seed)

    def __iter__(self) -> Iterator[int]:
        draws = torch.rand(len(self.lengths), dtype=torch.float64, generator=self.generator)
        drawn = torch.searchsorted(self.ends, draws * self.ends[-1], right=True).tolist()
        lengths = [self.lengths[i] for i in drawn]
        yield from (drawn[i] for i in get_length_grouped_indices(lengths, self.batch_size, generator=self.generator))


class FilledSampler(Sampler):
    """The same, and then fillers until all processes have a batch."""

    def __init__(self, sampler: EpochSampler, rounds: Rounds):
        self.sampler, self.rounds = sampler, rounds

    def __len__(self) -> int:
        return self.rounds.filled

    def __iter__(self) -> Iterator[int]:
        yield from self.sampler
        yield from [self.rounds.examples] * (self.rounds.filled - self.rounds.examples)

    def set_epoch(self, epoch: int) -> None:
        self.sampler.set_epoch(epoch)


class Bar(ProgressCallback):
    """The Trainer's progress bars without its dump of every log; none of them stays when it is done."""

    def on_train_begin(self, args, state, control, **kwargs):
        super().on_train_begin(args, state, control, **kwargs)
        if self.training_bar is not None:
            self.training_bar.leave = False

    def on_prediction_step(self, args, state, control, eval_dataloader=None, **kwargs):
        super().on_prediction_step(args, state, control, eval_dataloader, **kwargs)
        if self.prediction_bar is not None:
            self.prediction_bar.leave = False

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


def early_stopping(patience: int | None) -> list[TrainerCallback]:
    return [EarlyStoppingCallback(patience)] if patience else []
