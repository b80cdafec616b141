"""What others train: biases, whole layers, PEFT's adapters; and controls of ours. Each is a method as `train` knows them.

Head, warm-up of the head, optimizer, schedule, batches and choice of the checkpoint are those of `clm_kernels.finetune`.
"""

from __future__ import annotations

import random
import sys
from abc import abstractmethod
from collections.abc import Collection
from dataclasses import replace

import torch
from torch import nn

from clm_kernels.finetune.lora import adapt, targets
from clm_kernels.finetune.methods.base import Prepared
from clm_kernels.finetune.methods.head import Head
from clm_kernels.finetune.methods.optimizer import sparse_adamw
from clm_kernels.finetune.methods.sparse import Sparse
from clm_kernels.finetune.methods.warming import drawn_batches, warm_up
from clm_kernels.models.structure import bias_names, depths, head_names, norm_names, weights
from clm_kernels.patching.active import by_energy
from clm_kernels.selecting.pipeline import Choice
from clm_kernels.selecting.scores.sensitivity import sensitivity
from clm_kernels.selecting.units.control import random_selection
from clm_kernels.selection import Entries, Selection
from clm_kernels.token_groups import token_groups

RANK = 8  # r (m + n) entries of each m x n weight: 3.1 % of all-MiniLM-L6-v2's linear entries, as many as ours
VIRTUAL_TOKENS = 20


class RandomGroups(Sparse):
    """Units by their score where runs of words stand that are as many for each label, as frequent, and drawn at random."""

    def choose(self, config, loaded, train, groups=None):
        found = self.find_groups(config, loaded, train.split)
        every = list(token_groups(zip(train.split.texts, train.split.labels), loaded.tokenizer, top=sys.maxsize))
        draw = random.Random(config.run.seed)
        drawn = {label: draw.sample(every, min(len(own), len(every))) for label, own in found.by_class.items()}
        return super().choose(config, loaded, train, replace(found, by_class=drawn))


class RandomUnits(Sparse):
    """As many entries as ours, of each weight the same share, drawn by the run's seed."""

    def choose(self, config, loaded, train, groups=None):
        warm_up(config, loaded, train)
        ours = config.selecting
        options = {"density": ours.density, "kind": ours.kind, "layers": ours.layers}
        return Choice(random_selection(loaded.model, **options, seed=config.run.seed), {})


class RandomTokens(Sparse):
    """As many tokens in each layer's backward as ours would take there, drawn at random."""

    def prepare(self, model, config, selection, *, head=True, extension=None):
        prepared = super().prepare(model, config, selection, head=head, extension=extension)
        prepared.handle.active.choose = Drawn(model, config.run.seed)
        return prepared


class Drawn:
    """Tokens of one random order a step, the same in all its layers, so that what one layer keeps reaches those below."""

    def __init__(self, model: nn.Module, seed: int):
        self.generator = torch.Generator().manual_seed(seed)
        self.order = torch.empty(0)
        model.register_forward_pre_hook(lambda *_: setattr(self, "order", torch.empty(0)))

    def __call__(self, dy: torch.Tensor, energy: float) -> tuple[torch.Tensor, torch.Tensor]:
        ours, count = by_energy(dy, energy)
        if len(self.order) != len(dy):
            self.order = torch.rand(len(dy), generator=self.generator)
        drawn = self.order.where(dy.ne(0).any(1), 2.0).argsort()[: int(count)]  # never padding, as ours
        return torch.cat([drawn.sort().values, ours[int(count) :]]), count


class Whole(Head):
    """Trains some parameters and the head, whole."""

    @abstractmethod
    def names(self, model: nn.Module, selection: Selection) -> Collection[str]:
        """Names of those parameters."""

    def prepare(self, model, config, selection, *, head=True, extension=None):
        trained = {*self.names(model, selection), *(head_names(model) if head is True else head)}
        for name, parameter in weights(model).items():
            parameter.requires_grad_(name in trained)
        return Prepared(model, sparse_adamw(model, config.training.learning_rate, config.training.weight_decay))


class BitFit(Whole):
    """All biases, those of the normalisation too (Ben Zaken et al., arXiv 2106.10199)."""

    def names(self, model, selection):
        return bias_names(model) | {name for name in norm_names(model) if name.endswith("bias")}


class WholeLayers(Whole):
    """The most sensitive whole layers within the density; at least one, which in a small model is more than the density."""

    def choose(self, config, loaded, train, groups=None):
        warm_up(config, loaded, train)
        model, named = loaded.model, weights(loaded.model)
        depth, worth = depths(model), {}
        batches = drawn_batches(config, loaded, train, config.selecting.sensitivity_examples)
        for name, scores in sensitivity(model, batches, kind="rows").items():
            worth[depth[name]] = worth.get(depth[name], 0.0) + float(scores.sum())
        count = max(1, int(config.selecting.density * len(worth)))
        best = sorted(worth, key=worth.get, reverse=True)[:count]
        matrices = {name: tuple(named[name].shape) for name, layer in depth.items() if layer in best and named[name].dim() == 2}
        return Choice(Selection((name, Entries.everything("rows", shape)) for name, shape in matrices.items()), {})

    def names(self, model, selection):
        depth = depths(model)
        layers = {depth[name] for name in selection}
        return {name for name, layer in depth.items() if layer in layers}


class Adapted(Head):
    """PEFT's adapter layers inside the model, whose class and pooling stay; the head trains whole."""

    @abstractmethod
    def adapter(self, model: nn.Module, seed: int):
        """PEFT's config of them."""

    def prepare(self, model, config, selection, *, head=True, extension=None):
        handle = adapt(model, head, self.adapter(model, config.run.seed))
        return Prepared(model, sparse_adamw(model, config.training.learning_rate, config.training.weight_decay), handle)


class LoRA(Adapted):
    """LoRA on every linear weight of the layers (Hu et al., arXiv 2106.09685).

    With `dora` the weights of each output have a trained length besides (Liu et al., arXiv 2402.09353).
    """

    def __init__(self, name: str, rank: int = RANK, dora: bool = False):
        super().__init__(name)
        self.rank, self.dora = rank, dora

    def adapter(self, model, seed):
        from peft import LoraConfig

        names = targets(model, "all-linear")
        return LoraConfig(r=self.rank, lora_alpha=2 * self.rank, target_modules=names, use_dora=self.dora)


class Shira(Adapted):
    """SHiRA: scattered entries drawn at random (Bhardwaj et al., arXiv 2406.13175).

    As many as LoRA has, or as many of each weight as LoRA of that rank which comes nearest to a `share` of them all.
    """

    def __init__(self, name: str, share: float | None = None):
        super().__init__(name)
        self.share = share

    def adapter(self, model, seed):
        from peft import ShiraConfig

        names = targets(model, "all-linear")
        sizes = [tuple(model.get_submodule(name).weight.shape) for name in names]
        nearest = (self.share or 0.0) * sum(m * n for m, n in sizes) / sum(m + n for m, n in sizes)
        return ShiraConfig(r=max(1, round(nearest)) if self.share else RANK, target_modules=names, random_seed=seed)


class SuperTuning(Adapted):
    """The tenth of each weight's entries that is largest (arXiv 2607.09287, as PEFT has it)."""

    def adapter(self, model, seed):
        from peft import SupertuningConfig

        return SupertuningConfig(sparsity=0.9, target_modules=targets(model, "all-linear"))


class Prefix(Head):
    """Keys and values before the text, in every layer (Li and Liang, arXiv 2101.00190)."""

    def prepare(self, model, config, selection, *, head=True, extension=None):
        from peft import PrefixTuningConfig, get_peft_model

        kind = "TOKEN_CLS" if type(model).__name__.endswith("ForTokenClassification") else "SEQ_CLS"
        wrapped = get_peft_model(model, PrefixTuningConfig(task_type=kind, num_virtual_tokens=VIRTUAL_TOKENS))
        return Prepared(wrapped, sparse_adamw(wrapped, config.training.learning_rate, config.training.weight_decay))


def trained_head(prepared: Prepared, head: Collection[str]) -> int:
    """How many of the trained numbers are the head's (a wrapper may have put a copy in its place)."""
    names = set(head)
    return sum(
        parameter.numel()
        for name, parameter in prepared.model.named_parameters()
        if parameter.requires_grad and name.removeprefix("base_model.").replace(".modules_to_save.default", "") in names
    )
