"""What the heads of transformers' models are for, told by the names of their classes."""

from __future__ import annotations

from torch import nn

from .structure import base_model

ENDINGS = {"sequence": "ForSequenceClassification", "token": "ForTokenClassification"}


def task_of(class_name: str) -> str:
    """What a class of this name learns: ``"sequence"``, ``"token"``, or nothing that is known here."""
    return next((task for task, ending in ENDINGS.items() if class_name.endswith(ending)), "")


def task_by_head(model: nn.Module) -> str:
    """`task_of` the model's class."""
    return task_of(type(model).__name__)


def reads_text(model: nn.Module) -> bool:
    """Whether this classifies a text by what its base model makes of each token."""
    classifies = base_model(model) is not model and task_by_head(model) == "sequence"
    takes_ids = getattr(model, "main_input_name", "") == "input_ids"
    return classifies and takes_ids and not getattr(model.config, "is_encoder_decoder", False)


def label_names(model: nn.Module) -> list[str]:
    """Of a model's outputs in order, as its config has them; ``LABEL_0`` and so on where it has none."""
    named = getattr(getattr(model, "config", None), "id2label", None) or {}
    count = getattr(model, "num_labels", None) or len(named)
    return [named.get(i, f"LABEL_{i}") for i in range(count)]
