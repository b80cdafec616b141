"""What is told of the best checkpoint when training is over: its calibration, and its scores on the test data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch.distributed as dist
from transformers import EvalPrediction, PreTrainedTokenizerBase, Trainer

from ..models.heads import reads_text
from ..shards import divided
from .encode import Encoded
from .judging.by_text import ByText
from .judging.calibration import Calibration
from .judging.items import Items, condensed
from .judging.keeping import calibrate, scope_of
from .judging.logits import given_order, of_texts
from .judging.scope import Scope, kept_features
from .judging.several import Marks, marked_classes
from .outputs import is_main
from .report import Report, without_timing
from .tasks import Task


class Scored(NamedTuple):
    """What is known of the best checkpoint.

    Attributes:
        scope: by what texts are out of scope; None for tags, for several labels a text, where the head does not read hidden
            states of a text, and in a process that writes nothing.
        part: which part of the data `items` is of: ``test``, or where there is none ``validation``.
        items: what was predicted of it; None in a process that writes nothing, other than of several labels a text.
    """

    scope: Scope | None = None
    part: str = ""
    items: Items | Marks | None = None


def score_best(
    trainer: Trainer, model: Any, task: Task, names: Sequence[str], splits: Mapping[str, Encoded],
    tokenizer: PreTrainedTokenizerBase, report: Report,
) -> Scored:  # fmt: skip
    """Fits the calibration on the validation data, and scores the test data with it, if there are any.

    Args:
        model: what the trainer trains, with the best checkpoint's weights; its config gets the calibration.
        report: gets both.

    Returns:
        What a process that writes knows then; of any other one, little of it.
    """
    calibration, scope, items, size = None, None, None, trainer.args.per_device_eval_batch_size
    together = is_main() or divided(model)  # whose forward takes every process
    one_label = together and not (task.per_token or task.several) and reads_text(model)
    if together or task.several:  # whose scores need it in every process
        with kept_features(model, one_label) as features:
            fitted = calibrate(model, splits["validation"], task, tokenizer, list(names), size)
        calibration, report.calibration, items = fitted.calibration, fitted.told, fitted.items
        report.classes = _by_part("validation", fitted.classes)
        if one_label:
            validated = of_texts(splits["validation"], given_order(splits["validation"].dataset, features))
            scope = scope_of(model, splits["train"], validated, tokenizer, len(names), size)
            report.scope = scope.told()
    if "test" not in splits:
        return Scored(scope, "validation", items)
    test = splits["test"]
    score = task.score_calibrated(test, names, calibration)
    if task.several:
        by_text = ByText(test, lambda logits, labels: task.predicted(logits), score)
    else:
        kept = condensed(task, _everywhere(calibration))
        by_text = ByText(test, kept, lambda result: score(EvalPrediction(result.predictions[0], result.label_ids)))
    trainer.compute_metrics, trainer.preprocess_logits_for_metrics = by_text.compute, by_text.preprocess
    predicted = trainer.predict(test.dataset)
    report.test = without_timing(predicted.metrics or {}, "test_")
    found = by_text.of_texts(predicted.predictions, predicted.label_ids)
    if task.several and calibration is not None:
        items = Marks.of(names, test.split, found.label_ids > 0.5, found.predictions, calibration)
        report.classes |= _by_part("test", marked_classes(items.gold, items.found, names))
    elif is_main():
        items = Items.gathered(found.predictions, found.label_ids, test, task, names)
    return Scored(scope, "test", items)


def _everywhere(calibration: Calibration | None) -> float:
    """The temperature that process 0 has fitted, in all of several processes."""
    told = [calibration.temperature if calibration else 1.0]
    if dist.is_available() and dist.is_initialized():
        dist.broadcast_object_list(told)
    return told[0]


def _by_part(part: str, classes: Sequence[Any]) -> dict[str, list[dict[str, Any]]]:
    return {part: [line._asdict() for line in classes]} if classes else {}
