"""Loads a base model with a head for the task, and its tokenizer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import (
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..errors import listed, require
from ..extension import Extension
from ..models.bounds import check_files, check_folder, said
from ..models.folders import read_config, read_model, read_tokenizer, refusing
from ..models.load_report import HeldReport
from ..models.mixing import mix_layers
from ..models.pooling import natural_pooling, set_pooling
from ..models.positions import position_limits
from ..models.refused import check_kind
from ..models.structure import depths, head_names
from .config import Data
from .sharing import Shared
from .sides import set_sides
from .tasks import Task
from .templates import CONFIG_KEY, TEXT


@dataclass(frozen=True)
class Loaded:
    """A model and its tokenizer.

    Attributes:
        head: names of the parameters above the base model, and of others that the checkpoint does not hold (BERT's
            pooler, after masked language modelling); trained whole.
        missing: those that the checkpoint does not hold.
        extension: tokens that were merged, if any were.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    head: list[str]
    missing: list[str]
    extension: Extension | None = None


def load(
    path: str | Path,
    task: Task,
    label_names: Sequence[str],
    pooling: str = "native",
    dtype: str = "auto",
    tokenizer: str | Path = "",
    template: str = TEXT,
    bidirectional: str = "auto",
    mixed: bool = False,
    shared: Shared | None = None,
) -> Loaded:
    """Loads a base model and puts a head for these labels on it.

    Args:
        path: directory with config.json, weights and tokenizer.
        pooling: what the head reads, as `set_pooling` takes it.
        dtype: of the weights: ``"auto"`` as they are stored, or a torch dtype's name.
        tokenizer: directory of the tokenizer, if it is another one.
        template: words around every text; recorded in the model's config.
        bidirectional: which layers attend to both sides, as `Data` has it.
        mixed: whether the head reads a mix of all layers.
        shared: has read the weights before, or keeps them for later.

    Raises:
        ValueError: if the directory is missing or holds no such model.
    """
    check_directory("load", path)
    check_files("load", path)
    check_kind("load", path)
    ids = dict(enumerate(label_names))
    check_folder("load", path, task.auto_class, id2label=ids, label2id={name: i for i, name in ids.items()})
    with refusing("load", path, f"a model for {task.name} classification"):
        config = read_config(path, id2label=ids, label2id={name: i for i, name in ids.items()})
        config.problem_type = task.problem
        with HeldReport() as report:
            model, info = (shared.read_model if shared else read_model)(task.auto_class, path, config, dtype)
            known = depths(model)
            report.only_heads = all(known.get(name, math.inf) == math.inf for name in _lacking(info))
        tokenizer = load_tokenizer(tokenizer or path, task, config)
    rows = model.get_input_embeddings().weight.shape[0]
    within = f"the tokenizer's pad token {tokenizer.pad_token!r}", f"one of the model's {rows} embedding rows"
    require(type(tokenizer.pad_token_id) is int and tokenizer.pad_token_id < rows, "load", *within, tokenizer.pad_token_id)
    model.config.pad_token_id = tokenizer.pad_token_id
    setattr(model.config, CONFIG_KEY, template)
    model.config.architectures = [type(model).__name__]
    set_sides(model, bidirectional)
    set_pooling(model, pooling)
    if mixed:
        mix_layers(model, "train")
    depth = depths(model)
    missing = sorted(_lacking(info) & set(depth))
    below = [name for name in missing if depth[name] < math.inf]
    require(not below, "load", repr(str(path)), "a whole checkpoint", f"one without {listed(below, 3)}")
    head = {*head_names(model), *missing}
    return Loaded(model, tokenizer, [name for name in depth if name in head], missing)


def _lacking(info: dict[str, Any]) -> set[str]:
    """What transformers found no weights for, or others than the model's."""
    return {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}


def load_tokenizer(path: str | Path, task: Task, config: PretrainedConfig | None = None) -> PreTrainedTokenizerBase:
    """The fast tokenizer in a directory, with a token to pad with, on the right.

    With padding on the right, positions count from the first token in every model, and predictions do not depend on
    what else is in the batch. What the padding token is has no influence (`set_pooling`): end-of-text will do.

    Raises:
        ValueError: if there is none, or it has no token to pad with.
    """
    tokenizer = read_tokenizer(path, config)
    require(
        getattr(tokenizer, "is_fast", False), "load", "the tokenizer", "a fast one (tokenizer.json)", type(tokenizer).__name__
    )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    require(tokenizer.pad_token is not None, "load", "the tokenizer", "one with a pad_token or an eos_token", "neither")
    length = tokenizer.model_max_length
    require(
        type(length) in (int, float) and length >= 1,
        "load",
        "the tokenizer's model_max_length",
        "a number of tokens",
        repr(length),
    )
    tokenizer.padding_side = "right"
    task.prepare_tokenizer(tokenizer)
    _try(tokenizer)
    return tokenizer


def _try(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises ValueError for a tokenizer whose files were read and that can do nothing, as some parts are asked for by name."""
    try:
        tokenizer(["a text", ""], truncation=True, max_length=8)
    except BaseException as error:  # tokenizers panic, which is no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        require(False, "load", "the tokenizer", "one that takes a text", said(error))


def load_base(data: Data, task: Task, label_names: Sequence[str], shared: Shared | None = None) -> Loaded:
    """`load` as the config says it; the head is torch's own draw."""
    return load(
        data.model, task, label_names, pooling_for(data, task), data.dtype, template=data.template,
        bidirectional=data.bidirectional, mixed=data.mix_layers, shared=shared,
    )  # fmt: skip


def pooling_for(data: Data, task: Task) -> str:
    """What ``pooling="auto"`` means for this base model; nothing is pooled where every token has a label.

    It is what suits the base model by its files (`natural_pooling`).
    """
    if task.per_token:
        return "native"
    check_directory("load", data.model)
    return natural_pooling(data.model) if data.pooling == "auto" else data.pooling


def check_directory(function: str, path: str | Path) -> None:
    path = Path(path)
    require(path.is_dir(), function, f"model {str(path)!r}", "a directory on this machine (`hf download` fetches models)", "none")
    require((path / "config.json").is_file(), function, f"model {str(path)!r}", "a directory with a config.json", "one without")


def longest(loaded: Loaded, max_length: int) -> int:
    """`max_length`, or what the model and its tokenizer can take at most if that is less."""
    return min(_limits(loaded, max_length).values())


def limited_by(loaded: Loaded, max_length: int) -> str:
    """What makes `longest` no longer; of equal limits the one that is the hardest to change."""
    limits = _limits(loaded, max_length)
    return min(limits, key=lambda name: limits[name])


def _limits(loaded: Loaded, max_length: int) -> dict[str, int]:
    positions = {"the number of the model's positions": min(found)} if (found := position_limits(loaded.model)) else {}
    return positions | {"the tokenizer's model_max_length": loaded.tokenizer.model_max_length, "max_length": max_length}
