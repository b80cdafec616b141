"""What is told of the best checkpoint when training is over: its calibration, and its scores on the test data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase, Trainer

from ..models.heads import reads_text
from .encode import Encoded
from .judging.keeping import calibrate, scope_of
from .judging.scope import Scope, kept_features
from .judging.several import marked_classes
from .judging.thresholds import marked
from .outputs import is_main
from .report import Report, without_timing
from .tasks import Task


def score_best(
    trainer: Trainer, model: Any, task: Task, names: Sequence[str], splits: Mapping[str, Encoded],
    tokenizer: PreTrainedTokenizerBase, report: Report,
) -> Scope | None:  # fmt: skip
    """Fits the calibration on the validation data, and scores the test data with it, if there are any.

    Args:
        model: what the trainer trains, with the best checkpoint's weights; its config gets the calibration.
        report: gets both.

    Returns:
        By what texts are out of scope; None for tags, for several labels a text, where the head does not read hidden states of
        a text, and in a process that writes nothing.
    """
    calibration, scope, size = None, None, trainer.args.per_device_eval_batch_size
    one_label = is_main() and not (task.per_token or task.several) and reads_text(model)
    if is_main() or task.several:  # whose scores need it in every process
        with kept_features(model, one_label) as features:
            fitted = calibrate(model, splits["validation"], task, tokenizer, list(names), size)
        calibration, report.calibration = fitted.calibration, fitted.told
        report.classes = _by_part("validation", fitted.classes)
        if one_label:
            scope = scope_of(model, splits["train"], features, tokenizer, len(names), size)
            report.scope = scope.told()
    if "test" not in splits:
        return scope
    trainer.compute_metrics = task.score_calibrated(splits["test"], names, calibration)
    found = trainer.predict(splits["test"].dataset)
    report.test = without_timing(found.metrics or {}, "test_")
    if task.several and calibration is not None:
        gold = found.label_ids > 0.5
        report.classes |= _by_part("test", marked_classes(gold, marked(found.predictions, calibration), names))
    return scope


def _by_part(part: str, classes: Sequence[Any]) -> dict[str, list[dict[str, Any]]]:
    return {part: [line._asdict() for line in classes]} if classes else {}
