"""Checkpoints that plain transformers reads with the same predictions, whatever the head pools.

A model that pools as transformers does is saved as it is. One whose pooling transformers does not know carries its few
lines of code along (``trust_remote_code=True``), under a model type of its own: without them it refuses to load.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from ..files import write_atomically
from ..strangers import read_json
from . import pooled_head
from .families import PREFIX
from .pooling import CONFIG_KEY

MODULE = "clm_pooled"

_CODE = '''

from transformers import {config}, {model}


class ClmPooledConfig({config}):
    """AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)"""

    model_type = "{model_type}"


class ClmPooledModel({model}):
    """{model} whose head reads `config.{key}` over the real tokens, by the attention mask."""

    config_class = ClmPooledConfig

    def __init__(self, config):
        plain = copy.copy(config)
        plain.__class__ = {config}  # by which transformers finds the base model
        super().__init__(plain)
        self.config = config
        pool_head(self, self.base_model, config.{key})
'''


def save_portable(model: PreTrainedModel, folder: str | os.PathLike) -> None:
    """`save_pretrained` of a model that may have been given another pooling by `set_pooling`."""
    folder = Path(folder)
    model.save_pretrained(folder)
    if getattr(model.config, CONFIG_KEY, "native") == "native":
        return
    described = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    described["model_type"] = PREFIX + model.config.model_type
    described["auto_map"] = {
        "AutoConfig": f"{MODULE}.ClmPooledConfig",
        "AutoModelForSequenceClassification": f"{MODULE}.ClmPooledModel",
    }
    names = {"model": type(model).__name__, "config": type(model.config).__name__, "model_type": described["model_type"]}
    code = Path(pooled_head.__file__).read_text(encoding="utf-8") + _CODE.format(**names, key=CONFIG_KEY)
    write_atomically(folder / f"{MODULE}.py", code.encode())
    write_atomically(folder / "config.json", json.dumps(described, indent=2).encode())


def read_config(folder: str | os.PathLike, **changes) -> PreTrainedConfig:
    """The config of any checkpoint, of one that `save_portable` wrote as well; no code in the folder is run."""
    described = Path(folder) / "config.json"
    known = read_json(described, "read_config", "a config") if described.is_file() else {}
    if not str(known.get("model_type", "")).startswith(PREFIX):
        return AutoConfig.from_pretrained(folder, **changes)
    known.pop("auto_map", None)
    model_type = known.pop("model_type").removeprefix(PREFIX)
    return AutoConfig.for_model(model_type, **{**known, **changes})
