"""What every run has before its method comes in: checked options, data as tokens, a model with a head."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainingArguments, set_seed

from ..errors import require
from ..models.packing import check_packing
from ..models.recomputing import check_checkpointing
from ..recipe import Recipe
from ..selecting.overview import Overview, overview
from ..selection import Selection
from .advice import advice_when_out_of_memory, slow_on_this_cpu
from .balancing import check_balance
from .circumstances import check_circumstances, circumstances
from .config import TrainConfig
from .data import Corpus, load_data
from .encode import Encoded, check_cuts
from .manifest import read_manifest
from .merging import merge_tokens
from .methods import Method, check, method_of, resolved
from .models import Loaded, limited_by, load_base, longest, pooling_for
from .outputs import is_main
from .parts import with_files
from .saying import Say, say_cuts, say_data, say_once, to_stderr
from .sharing import Shared
from .tasks import Task
from .trainer import arguments
from .windows import keep_long


@dataclass(frozen=True)
class Begun:
    """What a run has before its method comes in: the same for every method.

    Attributes:
        config: with everything given, and what ``auto`` stands for.
        loaded: the model, on its device, with a head made by the config's seed.
        splits: token ids by the names ``train``, ``validation`` and, if there is test data, ``test``.
        args: what the Trainer is told.
        limit: tokens after which a text is cut off.
        merged: what to report of merged tokens; empty without them.
        asked: the options as they were given.
        circumstances: what else the run depends on.
        checkpoint: the one to go on from, if this run resumes another.
        shared: with other runs on the same base.
    """

    config: TrainConfig
    corpus: Corpus
    loaded: Loaded
    splits: dict[str, Encoded]
    args: TrainingArguments
    limit: int
    merged: dict[str, Any]
    asked: dict[str, Any]
    circumstances: dict[str, Any]
    checkpoint: Path | None
    shared: Shared | None = None

    @property
    def output(self) -> Path:
        return Path(self.config.run.output)

    @property
    def method(self) -> Method:
        return method_of(self.config)

    @property
    def task(self) -> Task:
        return self.corpus.task

    @property
    def resolved(self) -> TrainConfig:
        """The config with what ``auto`` stands for in this data and model, too."""
        pooled = {} if self.task.per_token else {"pooling": pooling_for(self.config.data, self.task)}
        return self.config.replace(best_by=self.args.metric_for_best_model, **pooled)


def begin(config: TrainConfig, say: Say, checkpoint: Path | None = None, shared: Shared | None = None) -> Begun:
    """Reads the data and the model of a run whose config has been checked; of one that goes on, they must be what they were."""
    asked = config.options()
    corpus, config, loaded, merged = _read(config, say, shared)
    check_balance(config.training, corpus.task)
    say_data(corpus, say)
    if config.training.gradient_checkpointing:
        check_checkpointing("train", loaded.model)
    if config.training.packing:
        check_packing("train", loaded.model)
    halved = [name for name, weight in loaded.model.named_parameters() if weight.dtype == torch.float16]
    named = "float32 or bfloat16, as small gradients vanish in the float16 that the checkpoint is stored in"
    require(not halved, "train", "dtype", named, repr(config.data.dtype))
    splits = _encoded(config, corpus, loaded, tuple(corpus.splits))
    limit = longest(loaded, config.data.max_length)
    say_cuts(splits, corpus.task, limit, limited_by(loaded, config.data.max_length), say)
    if config.data.long == "error":
        for name, split in splits.items():
            check_cuts("train", split, corpus.task.unit, limit, name)
    best = corpus.task.best_by(corpus.label_names, config.training.best_by)
    args = arguments(config.training, config.run, best)
    found = circumstances(loaded, Path(config.data.model), splits, args.device)
    if checkpoint:
        check_circumstances(read_manifest(checkpoint)["run"], found, say)
    if not config.training.fsdp:  # whose base no device need hold whole
        nn.Module.to(loaded.model, args.device)
    if is_main() and (line := slow_on_this_cpu(config, args.device)):
        say_once(say, "arithmetic", line)
    told = Recipe(corpus.task.name, config.data.model, limit, template=config.data.template)
    if is_main() and (line := method_of(config).said_before(loaded, corpus.label_names, told)):
        say(line)
    return Begun(config, corpus, loaded, splits, args, limit, merged, asked, found, checkpoint, shared)


def _read(config: TrainConfig, say: Say, shared: Shared | None = None) -> tuple[Corpus, TrainConfig, Loaded, dict[str, Any]]:
    """The data, the config with what ``auto`` stands for there, the model, and what to report of merged tokens."""
    corpus = load_data(config.data, config.run.seed)
    config = resolved(config, corpus.task)
    set_seed(config.run.seed)  # the head is made at random
    loaded = load_base(config.data, corpus.task, corpus.label_names, shared)
    keep_long(loaded.model.config, config.data.long)
    return corpus, config, *merge_tokens(config.data, loaded, corpus, say)


def _encoded(config: TrainConfig, corpus: Corpus, loaded: Loaded, names: tuple[str, ...]) -> dict[str, Encoded]:
    limit = longest(loaded, config.data.max_length)
    return {
        name: corpus.task.encode(
            corpus.splits[name],
            corpus.label_names,
            loaded.tokenizer,
            limit,
            name != "train",
            config.data.template,
            config.data.long,
        )
        for name in names
    }


def choose_selection(config: TrainConfig) -> tuple[Selection, Overview]:
    """The selection that `train` would make with this config, and what it leaves; nothing is trained or written.

    Raises:
        ValueError: as `train`.
    """
    check(config, ("model", "train"))
    method = method_of(config)
    require(method.selects, "choose_selection", "method", "one that selects, as 'sparse'", repr(method.name))
    with advice_when_out_of_memory(config), with_files(config.data) as data:
        config = config.replace(data=data)
        corpus, config, loaded, _ = _read(config, to_stderr)
        nn.Module.to(loaded.model, torch.accelerator.current_accelerator(check_available=True) or "cpu")
        choice = method.choose(config, loaded, _encoded(config, corpus, loaded, ("train",))["train"])
        return choice.selection, overview(*choice, loaded.model)
