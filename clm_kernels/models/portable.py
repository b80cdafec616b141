"""Checkpoints that plain transformers reads with the same predictions, whatever the head pools.

A model that pools as transformers does is saved as it is. One whose pooling transformers does not know carries its few
lines of code along (``trust_remote_code=True``), under a model type of its own: without them it refuses to load. This package
never runs that code; it reads such a checkpoint by itself.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..files import write_atomically
from . import pooled_head
from .folders import PREFIX
from .pooling import CONFIG_KEY, set_pooling

MODULE = "clm_pooled"

_ABOUT = """\
# This file is code that transformers runs when this folder is loaded with trust_remote_code=True, and which it needs for that:
# clm-kernels wrote it, as no class of transformers pools as this model's head does. It needs torch and transformers alone, reads
# and writes no file, and is the same in every folder but for the names of the classes at its end. clm-kernels reads the folder
# without it. `clm-kernels export --no-code` writes none, and refuses where the predictions would differ.
"""
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


def save_portable(model: PreTrainedModel, folder: str | os.PathLike, code: bool = True) -> None:
    """`save_pretrained` of a model that may have been given another pooling by `set_pooling`.

    Args:
        code: False: saved to be read by the model's own class, which gives the same where `reads_natively` says so.
    """
    folder = Path(folder)
    if not code and pools_by_code(model):
        with set_pooling(model, "native"):
            model.save_pretrained(folder)
        return
    model.save_pretrained(folder)
    if not pools_by_code(model):
        return
    described = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    described["model_type"] = PREFIX + model.config.model_type
    described["auto_map"] = {
        "AutoConfig": f"{MODULE}.ClmPooledConfig",
        "AutoModelForSequenceClassification": f"{MODULE}.ClmPooledModel",
    }
    names = {"model": type(model).__name__, "config": type(model.config).__name__, "model_type": described["model_type"]}
    text = _ABOUT + Path(pooled_head.__file__).read_text(encoding="utf-8") + _CODE.format(**names, key=CONFIG_KEY)
    write_atomically(folder / f"{MODULE}.py", text.encode())
    write_atomically(folder / "config.json", json.dumps(described, indent=2).encode())


def pools_by_code(model: PreTrainedModel) -> bool:
    """Whether its head's pooling is one that its class does not know, so that plain transformers needs code for it."""
    return getattr(model.config, CONFIG_KEY, "native") != "native"


@torch.no_grad()
def reads_natively(model: PreTrainedModel, batches: Iterable[Mapping[str, Tensor]]) -> bool:
    """Whether the model's own class gives these batches the bits that its head's pooling by `set_pooling` gives them."""
    batches = list(batches)
    pooled = [model(**batch).logits for batch in batches]
    with set_pooling(model, "native"):
        return all(torch.equal(model(**batch).logits, logits) for batch, logits in zip(batches, pooled, strict=True))
