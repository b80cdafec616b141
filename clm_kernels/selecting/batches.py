"""A few batches of a labelled dataset, on the model's device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from torch import Tensor, nn

from ..extras import needs


def batches_of(
    model: nn.Module, tokenizer, dataset: Iterable[Mapping], examples: int, batch_size: int, max_length: int, seed: int
) -> list[dict[str, Tensor]]:
    """`examples` rows drawn without replacement, tokenised and padded; similar lengths stand together."""
    for name, value in (("examples", examples), ("batch_size", batch_size), ("max_length", max_length)):
        if value < 1:
            raise ValueError(f"choose: {name} must be at least 1, got {value}")
    transformers = needs("transformers", "choose")
    rows = dataset if hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__") else list(dataset)
    if len(rows) == 0:
        raise ValueError("choose: dataset must have at least one row, got none")
    drawn = np.random.default_rng(seed).permutation(len(rows))[:examples]
    features = [_features(model, tokenizer, rows[int(i)], max_length) for i in drawn]
    features.sort(key=lambda feature: len(feature["input_ids"]))
    per_token = isinstance(features[0]["labels"], (list, tuple, np.ndarray)) and not takes_several_labels(model)
    collate = (transformers.DataCollatorForTokenClassification if per_token else transformers.DataCollatorWithPadding)(tokenizer)
    device = next(model.parameters()).device
    groups = (features[i : i + batch_size] for i in range(0, len(features), batch_size))
    return [{name: value.to(device) for name, value in collate(group).items()} for group in groups]


def mean_size(batches: Sequence[Mapping[str, Tensor]]) -> tuple[int, int]:
    """Texts in a batch, and tokens of a text with padding: the means of the batches'."""
    sizes = [tuple(batch["input_ids"].shape) for batch in batches]
    batch, length = (max(1, round(sum(size) / len(size))) for size in zip(*sizes))
    return batch, length


def takes_several_labels(model: nn.Module) -> bool:
    """Whether a text may have any number of labels, by the config: then each has a 0 or a 1 in its row of ``labels``."""
    return getattr(getattr(model, "config", None), "problem_type", None) == "multi_label_classification"


def _marks(model: nn.Module, row: Mapping) -> list[float]:
    numbers, marks = model.config.label2id, [0.0] * model.config.num_labels
    for name in row["labels"]:
        if name not in numbers:
            raise ValueError(f"choose: labels must be among the model's {len(numbers)} labels, got {name!r}")
        marks[numbers[name]] = 1.0
    return marks


def _text(row: Mapping) -> str:
    if "text" not in row or not isinstance(row.get("labels"), (list, tuple)):
        expected = "text and a list of label names, labels, or input_ids and labels"
        raise ValueError(f"choose: dataset rows must have {expected}, as the model takes several, got {sorted(row)}")
    return row["text"]


def _features(model: nn.Module, tokenizer, row: Mapping, max_length: int) -> dict:
    if "input_ids" in row and "labels" in row:
        kept = ("input_ids", "attention_mask", "token_type_ids", "labels")
        feature = {name: row[name] for name in kept if name in row}
        return {**feature, "labels": [float(mark) for mark in row["labels"]]} if takes_several_labels(model) else feature
    if takes_several_labels(model):
        return {**tokenizer(_text(row), truncation=True, max_length=max_length), "labels": _marks(model, row)}
    if "text" not in row or "label" not in row:
        raise ValueError(f"choose: dataset rows must have text and label, or input_ids and labels, got {sorted(row)}")
    label = row["label"]
    if isinstance(label, str):
        if label not in model.config.label2id:
            raise ValueError(f"choose: label must be one of the model's {len(model.config.label2id)} labels, got {label!r}")
        label = model.config.label2id[label]
    elif isinstance(label, int) and model.config.num_labels > 1 and not 0 <= label < model.config.num_labels:
        raise ValueError(f"choose: label must lie in [0, {model.config.num_labels}), got {label}")
    return {**tokenizer(row["text"], truncation=True, max_length=max_length), "labels": label}
