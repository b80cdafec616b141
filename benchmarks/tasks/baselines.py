"""What others train: biases, whole layers, PEFT's adapters. Each makes a `Method` for the loop that all methods share.

Head, warm-up of the head, optimizer, schedule, batches and choice of the checkpoint are those of `clm_kernels.finetune`.
"""

from __future__ import annotations

import random
import sys
from dataclasses import replace

import torch

from clm_kernels.finetune.lora import adapt, targets
from clm_kernels.finetune.methods import Method, count_trained, find_groups, optimizer_for, select
from clm_kernels.finetune.recipe import Run
from clm_kernels.models.structure import bias_names, depths, norm_names, weights
from clm_kernels.selecting.batches import batches_of
from clm_kernels.selecting.scores import sensitivity
from clm_kernels.selecting.units.control import random_selection
from clm_kernels.selection import Selection
from clm_kernels.token_groups import token_groups

RANK = 8  # r (m + n) entries of each m x n weight: 3.1 % of all-MiniLM-L6-v2's linear entries, as many as ours
VIRTUAL_TOKENS = 20


def by_random_groups(run: Run) -> Selection:
    """Units by their score where runs of words stand that are as many for each label, as frequent, and drawn at random."""
    found = find_groups(run.config, run.loaded, run.data.train)
    pairs = zip(run.data.train.texts, run.data.train.labels)
    every = list(token_groups(pairs, run.loaded.tokenizer, top=sys.maxsize))
    draw = random.Random(run.config.seed)
    drawn = {label: draw.sample(every, min(len(own), len(every))) for label, own in found.by_class.items()}
    return select(run.config, run.loaded, run.splits["train"], replace(found, by_class=drawn))


def random_units(run: Run) -> Selection:
    """As many entries as ours, of each weight the same share, drawn by the run's seed."""
    config = run.config
    select(replace(config, method="head"), run.loaded, run.splits["train"])  # warms up the head, as every method does
    return random_selection(run.loaded.model, density=config.density, kind=config.kind, layers=config.layers, seed=config.seed)


def only(run: Run, names: set[str]) -> Method:
    """Trains the parameters of these names and the head, whole."""
    model = run.loaded.model
    for name, parameter in weights(model).items():
        parameter.requires_grad_(name in names or name in run.loaded.head)
    return Method(None, optimizer_for(run.config, model), count_trained(model))


def bitfit(run: Run, _: Selection) -> Method:
    """All biases, those of the normalisation too (Ben Zaken et al., arXiv 2106.10199)."""
    model = run.loaded.model
    return only(run, bias_names(model) | {name for name in norm_names(model) if name.endswith("bias")})


def whole_layers(run: Run, _: Selection) -> Method:
    """The most sensitive whole layers within the density; at least one, which in a small model is more than the density."""
    config, model = run.config, run.loaded.model
    batches = batches_of(
        model, run.loaded.tokenizer, run.splits["train"].dataset, config.sensitivity_examples,
        batch_size=config.batch_size, max_length=config.max_length, seed=config.seed,
    )  # fmt: skip
    depth, worth = depths(model), {}
    for name, scores in sensitivity(model, batches, kind="rows").items():
        worth[depth[name]] = worth.get(depth[name], 0.0) + float(scores.sum())
    count = max(1, int(config.density * len(worth)))
    best = sorted(worth, key=worth.get, reverse=True)[:count]
    return only(run, {name for name, layer in depth.items() if layer in best})


def adapted(run: Run, config) -> Method:
    """PEFT's adapter layers inside the model, whose class and pooling stay; the head trains whole."""
    adapt(run.loaded, config)
    return Method(None, optimizer_for(run.config, run.loaded.model), count_trained(run.loaded.model))


def lora(run: Run, _: Selection) -> Method:
    """LoRA on every linear weight of the layers (Hu et al., arXiv 2106.09685)."""
    from peft import LoraConfig

    return adapted(run, LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=targets(run.loaded.model, "all-linear")))


def shira(run: Run, _: Selection) -> Method:
    """SHiRA: scattered entries drawn at random, as many as LoRA has (Bhardwaj et al., arXiv 2406.13175)."""
    from peft import ShiraConfig

    return adapted(run, ShiraConfig(r=RANK, target_modules=targets(run.loaded.model, "all-linear"), random_seed=run.config.seed))


def prefix(run: Run, _: Selection) -> Method:
    """Keys and values before the text, in every layer (Li and Liang, arXiv 2101.00190)."""
    from peft import PrefixTuningConfig, get_peft_model

    kind = {"sequence": "SEQ_CLS", "token": "TOKEN_CLS"}[run.data.task]
    model = get_peft_model(run.loaded.model, PrefixTuningConfig(task_type=kind, num_virtual_tokens=VIRTUAL_TOKENS))
    return Method(None, optimizer_for(run.config, model), count_trained(model), model)


def trained_head(method: Method, run: Run) -> int:
    """How many of the trained numbers are the head's (a wrapper may have put a copy in its place)."""
    names = set(run.loaded.head)
    model: torch.nn.Module = method.model or run.loaded.model
    return sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and name.removeprefix("base_model.").replace(".modules_to_save.default", "") in names
    )
