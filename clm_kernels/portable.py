"""Checkpoints that plain transformers reads with the same predictions, whatever the head pools.

A model that pools as transformers does is saved as it is. One whose pooling transformers does not know carries its few
lines of code along (``trust_remote_code=True``), under a model type of its own: without them it refuses to load.
"""

from __future__ import annotations

import inspect
import json
import os
from pathlib import Path

from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from . import pooling
from .files import write_atomically

PREFIX, MODULE = "mean_pooled_", "mean_pooled"

_CODE = '''"""{model} whose head reads the mean over the real tokens.

AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)
"""

import copy

from transformers import {config}, {model}


{mean_pool}

{mean_hook}

class MeanPooledConfig({config}):
    model_type = "{model_type}"


class MeanPooledModel({model}):
    config_class = MeanPooledConfig

    def __init__(self, config):
        super().__init__(config)
        self.base_model.register_forward_hook(mean_hook, with_kwargs=True)
'''


def save_portable(model: PreTrainedModel, folder: str | os.PathLike) -> None:
    """`save_pretrained` of a model that may have been given another pooling by `set_pooling`."""
    folder = Path(folder)
    model.save_pretrained(folder)
    if getattr(model.config, pooling.CONFIG_KEY, "native") == "native":
        return
    described = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    described["model_type"] = PREFIX + model.config.model_type
    described["auto_map"] = {
        "AutoConfig": f"{MODULE}.MeanPooledConfig",
        "AutoModelForSequenceClassification": f"{MODULE}.MeanPooledModel",
    }
    code = _CODE.format(
        model=type(model).__name__,
        config=type(model.config).__name__,
        model_type=described["model_type"],
        mean_pool=_plain_source(pooling.mean_pool),
        mean_hook=_plain_source(pooling.mean_hook),
    )
    write_atomically(folder / f"{MODULE}.py", code.encode())
    write_atomically(folder / "config.json", json.dumps(described, indent=2).encode())


def read_config(folder: str | os.PathLike, **changes) -> PreTrainedConfig:
    """The config of any checkpoint, of one that `save_portable` wrote as well; no code in the folder is run."""
    described = Path(folder) / "config.json"
    known = json.loads(described.read_text(encoding="utf-8")) if described.is_file() else {}
    if not str(known.get("model_type", "")).startswith(PREFIX):
        return AutoConfig.from_pretrained(folder, **changes)
    known.pop("auto_map", None)
    model_type = known.pop("model_type").removeprefix(PREFIX)
    return AutoConfig.for_model(model_type, **{**known, **changes})


def _plain_source(function) -> str:
    """A function's source without annotations that need an import."""
    return (
        inspect.getsource(function).replace("Tensor | None", "object").replace("Tensor", "object").replace("nn.Module", "object")
    )
