"""What is told of the best checkpoint when training is over: its calibration, and its scores on the test data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase, Trainer

from .encode import Encoded
from .judging.keeping import calibrate
from .judging.several import marked_classes
from .judging.thresholds import marked
from .outputs import is_main
from .report import Report, without_timing
from .tasks import Task


def score_best(
    trainer: Trainer, model: Any, task: Task, names: Sequence[str], splits: Mapping[str, Encoded],
    tokenizer: PreTrainedTokenizerBase, report: Report,
) -> None:  # fmt: skip
    """Fits the calibration on the validation data, and scores the test data with it, if there are any.

    Args:
        model: what the trainer trains, with the best checkpoint's weights; its config gets the calibration.
        report: gets both.
    """
    calibration = None
    if is_main() or task.several:  # whose scores need it in every process
        fitted = calibrate(model, splits["validation"], task, tokenizer, list(names), trainer.args.per_device_eval_batch_size)
        calibration, report.calibration = fitted.calibration, fitted.told
        report.classes = _by_part("validation", fitted.classes)
    if "test" not in splits:
        return
    trainer.compute_metrics = task.score_calibrated(splits["test"], names, calibration)
    found = trainer.predict(splits["test"].dataset)
    report.test = without_timing(found.metrics or {}, "test_")
    if task.several and calibration is not None:
        gold = found.label_ids > 0.5
        report.classes |= _by_part("test", marked_classes(gold, marked(found.predictions, calibration), names))


def _by_part(part: str, classes: Sequence[Any]) -> dict[str, list[dict[str, Any]]]:
    return {part: [line._asdict() for line in classes]} if classes else {}
