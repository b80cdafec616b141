"""A config with minutes as one with the epochs and the cost that fit into them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import TrainingArguments

from ...errors import require
from ...models.heads import reads_text
from ...models.recomputing import checkpoint_layers, recompute_norms
from ...selection import Selection
from ..circumstances import processes
from ..judging.scope import TEXTS
from ..methods import method_of
from ..pacing import Price
from ..trainer import EpochSampler
from .plan import Load, Speed, plan_within
from .shares import Kept
from .stopwatch import MISSED, Batch, Stopwatch, same_modes, speed_of

if TYPE_CHECKING:
    from ..config import TrainConfig
    from ..encode import Encoded
    from ..models import Loaded
    from ..tasks import Task

SPENT = 0.05  # part of the time after which no kind of step is measured again
ANY = 0.5  # a cost, so that the model is made ready to leave tokens out


def within(
    config: TrainConfig, loaded: Loaded, selection: Selection, splits: Mapping[str, Encoded], task: Task,
    args: TrainingArguments, began: float, say: Callable[[str], None],
) -> tuple[TrainConfig, dict[str, Any], Kept]:  # fmt: skip
    """The config in which epochs and cost stand in place of the minutes, what `Report.minutes` has of it, and what holds it.

    The model is left as it was, bit for bit. The state of random numbers is not.

    Args:
        began: what `time.perf_counter` said when the run began.

    Raises:
        ValueError: for minutes that are too few, and where several processes train.
    """
    asked = config.training.minutes
    assert asked is not None
    require(processes() == 1, "train", "minutes", "left out where several processes or GPUs train", asked)
    paced, cost = _paced(config, loaded, selection, splits["train"])
    batches = _batches(paced, splits["train"])
    one_label = reads_text(loaded.model) and not (task.per_token or task.several)
    load = _load(paced, batches, splits, one_label)
    texts = _middle(batches)
    limit = SPENT * 60 * asked
    speed = _speed(
        paced, loaded, selection, cost, [_batch(splits["train"], rows, loaded, task, args) for rows in texts], args, limit
    )
    before = time.perf_counter() - began
    plan = plan_within(asked, before, config.training.epochs, speed, load)
    part = None if plan.share is None else Price.of(cost).mean(plan.share, plan.epochs)
    predicted = (before + plan.training + plan.judging) / 60
    seconds = {"before": before, "training": plan.training, "judging": plan.judging}
    told = {"asked": asked, "predicted": predicted, "epochs": plan.epochs, "share": plan.share, "cost": part, "seconds": seconds}
    say(
        f"{predicted:.{1 if predicted >= 1 else 2}f} of {asked:g} minutes: {_said(plan.epochs, config.training.epochs, plan.share)}"
    )
    fitting = config.replace(minutes=None, epochs=plan.epochs, cost=part)
    return fitting, told | {"speed": speed._asdict()}, Kept(asked, began, plan.epochs, speed, load)


def _said(epochs: float, asked: float, share: float | None) -> str:
    fewer = "" if epochs == asked else f" in place of {asked:g}"
    left = "every token of all examples" if share is None else f"{share:.0%} of the tokens and, after the first, of the examples"
    return f"{epochs:g} epochs{fewer}, {left}"


def _paced(
    config: TrainConfig, loaded: Loaded, selection: Selection, train: Encoded
) -> tuple[TrainConfig, dict[str, Any]]:  # fmt: skip
    """The config by which tokens can be left out, and what they cost; where they cannot, the config without, and nothing."""
    plain, method = config.replace(minutes=None), method_of(config)
    if not method.active_tokens:
        return plain, {}
    paced = plain.replace(cost=ANY)
    try:
        return paced, method.cost(paced, loaded, selection, train)
    except ValueError:  # which is said where the report's cost is counted
        return plain, {}


def _batches(config: TrainConfig, train: Encoded) -> list[tuple[list[int], int]]:
    """The rows of each batch of the first epoch, and its tokens with padding."""
    size, lengths = config.training.batch_size, list(train.dataset["length"])
    order = list(EpochSampler(size * config.training.gradient_accumulation, lengths, config.run.seed))
    rows = [order[start : start + size] for start in range(0, len(order), size)]
    return [(batch, len(batch) * max(lengths[row] for row in batch)) for batch in rows]


def _middle(batches: Sequence[tuple[list[int], int]]) -> tuple[list[int], list[int]]:
    """The rows of the batch that is nearest to the mean, and the first half of them."""
    mean = sum(tokens for _, tokens in batches) / len(batches)
    rows, _ = min(batches, key=lambda batch: abs(batch[1] - mean))
    return rows, rows[: math.ceil(len(rows) / 2)]


def _batch(train: Encoded, rows: Sequence[int], loaded: Loaded, task: Task, args: TrainingArguments) -> Batch:
    chosen = train.dataset.select(rows).remove_columns("length")
    return task.collate(loaded.tokenizer)(list(chosen)).to(args.device)


def _load(
    config: TrainConfig, batches: Sequence[tuple[list[int], int]], splits: Mapping[str, Encoded], scoped: bool
) -> Load:  # fmt: skip
    """`scoped` says whether training texts are read again at the end, to tell what is out of scope."""
    tokens = {name: int(np.sum(split.dataset["length"])) for name, split in splits.items()}
    steps = math.ceil(len(batches) / config.training.gradient_accumulation)
    every = config.training.eval_steps / steps if config.training.eval_steps else 1.0
    again = round(tokens["train"] * min(1.0, TEXTS / len(splits["train"].split))) if scoped else 0
    end = tokens["validation"] + tokens.get("test", 0) + again
    return Load(len(batches), sum(tokens for _, tokens in batches), tokens["validation"], every, end)


def _speed(
    config: TrainConfig, loaded: Loaded, selection: Selection, cost: Mapping[str, Any], batches: Sequence[Batch],
    args: TrainingArguments, limit: float,
) -> Speed:  # fmt: skip
    """Of this config's steps, by a batch and a smaller one."""
    model, (whole, half) = loaded.model, batches
    with same_modes(model) as undo:
        prepared = method_of(config).prepare(model, config, selection, head=loaded.head, extension=loaded.extension)
        if prepared.handle is not None:
            undo.callback(prepared.handle.restore)
        if config.training.gradient_checkpointing:
            undo.enter_context(checkpoint_layers(model))
        if config.training.recompute_norms:
            undo.enter_context(recompute_norms(model))
        stopwatch = Stopwatch(prepared, cost, args, limit)
        most, smaller = stopwatch.trains(whole, MISSED[0]), stopwatch.trains(half, MISSED[0])
        least = stopwatch.trains(whole, MISSED[1]) if prepared.active else None
        return speed_of(most, smaller, least, stopwatch.reads(whole))
