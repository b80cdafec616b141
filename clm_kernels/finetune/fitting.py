"""`fit`: the training itself, and what it tells the report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial

import torch
from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from ..models.recomputing import checkpoint_layers, recompute_norms
from ..models.structure import number_of_layers
from .balancing import drawing_chances, label_weights
from .beginning import Begun
from .checkpoints import Sealing
from .divided import told, trainer_for
from .interruption import Interruption
from .judging.by_text import ByText
from .methods import Prepared
from .outputs import beside
from .pacing import Pace, by_cost
from .packed import Packed
from .pricing import Shares
from .replaying import replaying
from .report import Report, validations
from .saying import Say
from .scoring import Scored, score_best
from .shares import ActiveShares, spent
from .teaching import Teaching, chances_within, lines
from .trainer import Bar, Progress, RunTrainer, early_stopping


def fit(
    run: Begun, prepared: Prepared, report: Report, say: Say, *callbacks: TrainerCallback, shares: Shares = by_cost
) -> Scored:
    """Trains, puts the best checkpoint's weights into the model, and fills in the scores; as `score_best`."""
    training, splits, model = run.config.training, run.splits, run.loaded.model
    if training.gradient_checkpointing:
        checkpoint_layers(model)
    if training.recompute_norms and not recompute_norms(model).norms:
        say("recompute_norms changes nothing: torch fuses this model's normalisation, which keeps its input alone anyway")
    progress, interruption = Progress(report.best_by, say), Interruption(say)
    pace = _pace(run, prepared, report, shares)
    counting = [ActiveShares(prepared.active, report.cost, say)] if prepared.active else []
    packed = Packed(model) if training.packing else None
    sealing = Sealing(beside(run.output), run.circumstances)  # after all that writes to a checkpoint
    trainer = _trainer(run, prepared, pace, say, [progress, *callbacks], [sealing, interruption, *counting])
    if packed:
        trainer.add_callback(packed)
    started = time.perf_counter()
    wanted = run.method.wants_replay(run.config)
    last = run.shared.last if run.shared else None
    replayed = replaying(wanted, model, training, run.loaded.tokenizer, splits["train"], run.args, report, say, last)
    with replayed as lower:
        with interruption, packed or nullcontext():
            if not run.checkpoint:
                run.method.start(run.config, run.loaded, splits["train"])
            trainer.train(resume_from_checkpoint=str(run.checkpoint) if run.checkpoint else None)
        trainer.accelerator.wait_for_everyone()  # until every process has read the best checkpoint, which may go now
        report.seconds |= {"training": time.perf_counter() - started, "epochs": progress.seconds}
        report.divided, report.exchanged = told(prepared.handle), trainer.exchanged.told()
        report.packing = packed.shares(say) if packed else {}
        report.history = validations(trainer.state.log_history)
        report.best = next(line for line in report.history if line["step"] == trainer.state.best_global_step)
        report.active = [line for callback in counting for line in callback.epochs(trainer.state.log_history)]
        report.examples, report.planned = lines(trainer.state.log_history), pace.planned if pace else []
        if pace and pace.told:
            report.minutes["shares"] = pace.told
        report.epochs = trainer.state.epoch or 0.0
        if report.cost and bool(report.active) == bool(prepared.active):
            once = lower.layers / number_of_layers(model) if lower else 0.0
            report.spent = spent(report.cost, report.active, report.examples, report.epochs, once)
            if pace and (off := pace.missed_by(report.spent)):
                say(off)
        if lower:
            lower.keep_no_more()  # of test texts, of which there may be any number
        return score_best(trainer, prepared.model, run.task, run.corpus.label_names, splits, run.loaded.tokenizer, report)


def _pace(run: Begun, prepared: Prepared, report: Report, shares: Shares) -> Pace | None:
    training = run.config.training
    if training.cost is None:
        return None
    assert prepared.active is not None  # a model without layers that can leave tokens out has been refused
    lengths = list(run.splits["train"].dataset["length"])
    return Pace(prepared.active, report.cost, training.cost, training.epochs, lengths, shares)


def _trainer(
    run: Begun,
    prepared: Prepared,
    pace: Pace | None,
    say: Say,
    before: Sequence[TrainerCallback],
    after: Sequence[TrainerCallback],
) -> RunTrainer:
    """`before` and `after` stand around the callbacks that choose an epoch's examples, of which checkpoints keep something."""
    training, args, task, names, splits = run.config.training, run.args, run.task, run.corpus.label_names, run.splits
    weights = label_weights(training, splits["train"], len(names))
    weights = weights if weights is None else weights.to(args.device)
    chances = pace.chances if pace else partial(chances_within, noise=training.skip)
    lengths, drawn = list(splits["train"].dataset["length"]), drawing_chances(training, splits["train"], len(names))
    own = splits["train"].weights if drawn is None else None  # else how often an example is drawn is its weight
    parts = None if own is None else torch.from_numpy(own).float()
    teaching = Teaching(lengths, chances, args.seed, run.checkpoint, say, weights, parts) if pace or training.skip else None
    validation = splits["validation"]
    by_text = ByText(validation, lambda logits, labels: task.predicted(logits), task.score(validation, names))
    trainer = trainer_for(prepared.handle)(
        model=prepared.model, args=args, train_dataset=splits["train"].dataset, eval_dataset=validation.dataset,
        processing_class=run.loaded.tokenizer, data_collator=task.collate(run.loaded.tokenizer),
        compute_metrics=by_text.compute, preprocess_logits_for_metrics=by_text.preprocess,
        callbacks=[*before, *filter(None, [pace, teaching]), *after, *early_stopping(training.patience)],
        optimizers=(prepared.optimizer, None), teaching=teaching, label_weights=weights,
        weights=parts, chances=drawn,
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    if trainer.pop_callback(ProgressCallback):
        trainer.add_callback(Bar)
    return trainer
