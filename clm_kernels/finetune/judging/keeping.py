"""Where a calibration is kept: in the config of a model as `clm_calibration`, and so in every checkpoint of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ...errors import require
from .calibration import BINS, Calibration, calibration_error, reliability, softmax
from .classes import ClassScore
from .items import Items
from .logits import Judged, all_logits, given_order, judged, logits_of, of_texts
from .scope import Scope, drawn, kept_features
from .several import Marks, error_of_marks, marked_classes, marks
from .thresholds import HALF, calibrated

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

    from ..encode import Encoded
    from ..tasks import Task

CONFIG_KEY = "clm_calibration"
DETAIL = "calibration"  # in `Recipe.details`, of what is kept without a config


class Fitted(NamedTuple):
    """A calibration, what a report says of it, what it is of, and how each label fares where a text may have several."""

    calibration: Calibration
    told: dict[str, Any]
    items: Items | Marks
    classes: Sequence[ClassScore] = ()


def calibration_of(config: PreTrainedConfig, task: Task, labels: int) -> Calibration:
    """What is kept with a model of so many labels; of one that was trained without, temperature 1 and thresholds of a half."""
    found = Calibration.from_dict(getattr(config, CONFIG_KEY, None))
    if not task.several:
        return found
    thresholds = found.thresholds or (HALF,) * labels
    require(len(thresholds) == labels, "Classifier.load", "the thresholds of labels", f"{labels}, one a label", len(thresholds))
    return replace(found, thresholds=thresholds)


def calibrate(
    model: Any, validation: Encoded, task: Task, tokenizer: PreTrainedTokenizerBase, label_names: list[str], batch_size: int
) -> Fitted:  # fmt: skip
    """Fits a calibration on the validation data and keeps it in the model's config; the weights are left alone.

    Returns:
        It, and what to report: temperature, how many texts or words it was fitted on, and the calibration error before and
        after; where a text may have several labels, over all pairs of a text and a label, and with thresholds and classes.
    """
    if task.several:
        return _of_several(model, validation, tokenizer, label_names, batch_size)
    found = judged(model, validation, task, tokenizer, label_names, batch_size)
    calibration = Calibration.fit(found.logits[found.seen], found.gold[found.seen], rejects=not task.per_token)
    setattr(model.config, CONFIG_KEY, calibration.to_dict())
    told = _told(calibration, int(found.seen.sum()), partial(error_at, found))
    return Fitted(calibration, told, Items.of(found, softmax(found.logits, calibration.temperature)))


def _of_several(
    model: Any, validation: Encoded, tokenizer: PreTrainedTokenizerBase, label_names: list[str], batch_size: int
) -> Fitted:  # fmt: skip
    gold, logits = marks(validation.split.labels, label_names), all_logits(model, validation, tokenizer, batch_size)
    calibration = calibrated(logits, gold)
    setattr(model.config, CONFIG_KEY, calibration.to_dict())
    told = _told(calibration, len(gold), lambda temperature: error_of_marks(logits, gold, temperature))
    thresholds = dict(zip(label_names, calibration.thresholds, strict=True))
    of_logits = Marks.of(label_names, validation.split, gold, logits, calibration)
    classes = marked_classes(gold, of_logits.found, label_names)
    return Fitted(calibration, told | {"thresholds": thresholds}, of_logits, classes)


def _told(calibration: Calibration, rows: int, error: Callable[[float], float]) -> dict[str, Any]:
    errors = {"error_before": error(1.0), "error_after": error(calibration.temperature)}
    return {"temperature": calibration.temperature, "rows": rows, "bins": BINS, **errors}


def scope_of(
    model: Any, train: Encoded, validation: Tensor, tokenizer: PreTrainedTokenizerBase, labels: int, batch_size: int
) -> Scope:  # fmt: skip
    """By what texts are out of scope: of training texts with one label each, and the validation texts' features ``(texts, size)``."""
    numbers = list(train.labelled["labels"])
    chosen = drawn(numbers)
    part = train.part(chosen)
    with kept_features(model) as learnt:
        for _ in logits_of(model, part.dataset, tokenizer, batch_size):
            pass
    gold = torch.tensor([numbers[i] for i in chosen])
    return Scope.fit(of_texts(part, given_order(part.dataset, learnt)), gold, validation, labels)


def error_at(found: Judged, temperature: float) -> float:
    """The calibration error of those that were seen, at a temperature."""
    probabilities = softmax(found.logits[found.seen], temperature)
    right = probabilities.argmax(-1) == found.gold[found.seen]
    return calibration_error(reliability(probabilities.max(-1), right))
