"""Where a calibration is kept: in the config of a model as `clm_calibration`, and so in every checkpoint of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from ...models.heads import reads_text
from .calibration import BINS, Calibration, calibration_error, reliability, softmax
from .logits import Judged, judged, logits_of
from .scope import Scope, drawn, kept_features

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

    from ..encode import Encoded
    from ..tasks import Task

CONFIG_KEY = "clm_calibration"
DETAIL = "calibration"  # in `Recipe.details`, of what is kept without a config


def calibration_of(config: PreTrainedConfig) -> Calibration:
    """What is kept with a model; temperature 1 of one that was trained before there was any."""
    return Calibration.from_dict(getattr(config, CONFIG_KEY, None))


def calibrate(
    model: Any, validation: Encoded, task: Task, tokenizer: PreTrainedTokenizerBase, label_names: list[str], batch_size: int
) -> dict[str, Any]:  # fmt: skip
    """Fits a calibration on the validation data and keeps it in the model's config; the weights are left alone.

    Returns:
        What to report: temperature, how many texts or words it was fitted on, and the calibration error before and after.
    """
    found = judged(model, validation, task, tokenizer, label_names, batch_size)
    calibration = Calibration.fit(found.logits[found.seen], found.gold[found.seen], rejects=not task.per_token)
    setattr(model.config, CONFIG_KEY, calibration.to_dict())
    return {
        "temperature": calibration.temperature,
        "rows": int(found.seen.sum()),
        "bins": BINS,
        "error_before": error_at(found, 1.0),
        "error_after": error_at(found, calibration.temperature),
    }


def judge(
    model: Any, splits: Mapping[str, Encoded], task: Task, tokenizer: PreTrainedTokenizerBase, label_names: list[str], batch_size: int
) -> tuple[dict[str, Any], Scope | None]:  # fmt: skip
    """What `calibrate` does and reports, and by which texts are out of scope; None for tags, for several labels
    a text, and where the head does not read an encoder's or a decoder's hidden states."""
    train, validation = splits["train"], splits["validation"]
    whole = reads_text(model) and not task.per_token and isinstance(train.dataset[0]["labels"], int)
    with kept_features(model, whole) as features:
        reported = calibrate(model, validation, task, tokenizer, label_names, batch_size)
    if not whole:
        return reported, None
    numbers = list(train.dataset["labels"])
    chosen = drawn(numbers)
    with kept_features(model) as learnt:
        for _ in logits_of(model, train.dataset.select(chosen), tokenizer, batch_size):
            pass
    gold = torch.tensor([numbers[i] for i in chosen])
    return reported, Scope.fit(torch.cat(learnt), gold, torch.cat(features), len(label_names))


def error_at(found: Judged, temperature: float) -> float:
    """The calibration error of those that were seen, at a temperature."""
    probabilities = softmax(found.logits[found.seen], temperature)
    right = probabilities.argmax(-1) == found.gold[found.seen]
    return calibration_error(reliability(probabilities.max(-1), right))
