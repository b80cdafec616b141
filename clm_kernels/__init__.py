"""Fine-tune small language models into classifiers by training a small selection of their weights in place."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._version import __version__
from .extras import said_what_to_install

if TYPE_CHECKING:
    from . import ops as ops
    from .delta import Delta as Delta
    from .finetune.classifier import Classifier as Classifier
    from .finetune.config import TrainConfig as TrainConfig
    from .finetune.estimator import TextClassifier as TextClassifier
    from .finetune.judging.writing import evaluate as evaluate
    from .finetune.many.tasks import train_tasks as train_tasks
    from .finetune.recipe import train as train
    from .measure.profiling.session import profiling as profiling
    from .models.attention import bidirectional as bidirectional
    from .models.attention import bidirectional_layers as bidirectional_layers
    from .models.attention import causal as causal
    from .models.attention import restore_attention as restore_attention
    from .models.packing import Packing as Packing
    from .models.packing import pack_batches as pack_batches
    from .models.pooling import set_pooling as set_pooling
    from .models.replay import Replay as Replay
    from .models.replay import replay as replay
    from .optim import SparseAdamW as SparseAdamW
    from .patching import Handle as Handle
    from .patching import patch as patch
    from .patching.sharding import shard as shard
    from .recipe import Recipe as Recipe
    from .selecting.budget.spending import budget as budget
    from .selecting.pipeline import choose as choose
    from .selecting.scores.sensitivity import sensitivity as sensitivity
    from .selecting.scores.warm_up import warm_up_head as warm_up_head
    from .selection import Entries as Entries
    from .selection import Selection as Selection
    from .serving.trunk import Trunk as Trunk
    from .values import Values as Values

_HOMES = {  # public name -> the module that it is imported from when it is first asked for
    "Classifier": "finetune.classifier",
    "Delta": "delta",
    "Entries": "selection",
    "Handle": "patching",
    "Packing": "models.packing",
    "Recipe": "recipe",
    "Replay": "models.replay",
    "Selection": "selection",
    "SparseAdamW": "optim",
    "TextClassifier": "finetune.estimator",
    "TrainConfig": "finetune.config",
    "Trunk": "serving.trunk",
    "Values": "values",
    "bidirectional": "models.attention",
    "bidirectional_layers": "models.attention",
    "budget": "selecting.budget.spending",
    "causal": "models.attention",
    "choose": "selecting.pipeline",
    "evaluate": "finetune.judging.writing",
    "pack_batches": "models.packing",
    "patch": "patching",
    "profiling": "measure.profiling.session",
    "replay": "models.replay",
    "restore_attention": "models.attention",
    "sensitivity": "selecting.scores.sensitivity",
    "set_pooling": "models.pooling",
    "shard": "patching.sharding",
    "train": "finetune.recipe",
    "train_tasks": "finetune.many.tasks",
    "warm_up_head": "selecting.scores.warm_up",
}
_PACKAGES = ("ops",)  # that are reached as attributes without being imported by name

__all__ = ["__version__", *_HOMES]


def _load(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with said_what_to_install(name):
        found = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = found
    return found


if not TYPE_CHECKING:  # which would take any name for one of this package's
    __getattr__ = _load


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_PACKAGES})
