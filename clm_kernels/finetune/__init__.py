"""The recipe: from a labelled file and a base model to a fine-tuned classifier."""

from ..extras import said_what_to_install
from .config import TrainConfig

__all__ = ["Classifier", "Report", "TrainConfig", "train"]

_HOMES = {"Classifier": "classifier", "Report": "report", "train": "recipe"}


def __getattr__(name: str):
    """Imports the parts that need transformers, which takes seconds, when they are first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    with said_what_to_install(name):
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
