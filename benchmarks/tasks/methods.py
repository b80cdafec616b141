"""The methods, a line each: what the recipe is told, and what takes the place of its method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from typing import Any

from clm_kernels.finetune.config import PARTS
from clm_kernels.finetune.methods import Method

from . import baselines, contrastive, logistic

LADDER = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)  # of learning rates; one starts with the four in the middle
PENALTIES = (1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)  # scikit-learn's C


@dataclass(frozen=True)
class Way:
    """One method.

    Attributes:
        label: its name in tables and pictures.
        options: fields of TrainConfig that it sets.
        method: what warms up the head, chooses, and makes model and optimizer ready, if it is none of `train`'s.
        group: ``"ours"``, ``"baseline"`` or ``"control"``.
        headline: whether it gets the larger number of seeds.
        asked: whether it runs only where it is asked for by name.
        density_times: what the density is multiplied with: fewer layers are eligible, or more is to be trained.
        kinds: the tasks that it can do, ``"sequence"`` and ``"token"``; `refusal` says why not the others.
        rates_of: the method of which it changes one thing, and takes the learning rates; empty if it is tuned by itself.
        run: what makes a cell's result in place of `train`'s loop, of the config, the cell's rate and what is `given`.
        given: what `run` is told besides.
        tuned: what stands in the place of a learning rate.
        ladder: what validation chooses the rate from; a single one is not tuned.
        package: one that it alone needs.
    """

    label: str
    options: Mapping[str, Any]
    method: Method | None = None
    group: str = "baseline"
    headline: bool = False
    asked: bool = False
    density_times: int = 1
    kinds: tuple[str, ...] = ("sequence", "token")
    refusal: str = ""
    rates_of: str = ""
    run: Callable[..., dict[str, Any]] | None = None
    given: Mapping[str, Any] = field(default_factory=dict)
    tuned: str = "rate"
    ladder: Sequence[float] = LADDER
    package: str = ""

    def missing(self) -> str:
        """What TrainConfig lacks for it; empty if nothing."""
        known = {spec.name: spec.metadata["choices"] for part in PARTS.values() for spec in fields(part)}
        for name, value in self.options.items():
            if name not in known or (known[name] and value not in known[name]):
                return f"TrainConfig.{name} = {value!r}"
        return ""


HEAD, SPARSE = {"method": "head", "replay": False}, {"method": "sparse", "select": "fisher", "energy": "1"}
# The upper half of the layers, the lower half run once, chosen from fewer examples: half of full fine-tuning's FLOPs in all.
HALF = {"backward": 0.25, "replay": True, "sensitivity_examples": 128}
BLOCKS = {"method": "sparse", "select": "random", "kind": "blocks", "block": 8, "energy": "1"}
GROUPS = {"method": "sparse", "select": "random", "kind": "groups"}
ACTIVE = GROUPS | {"energy": "0.999"}
SKIP = {"skip": 0.1}  # of an epoch's expected squared gradient error
EVERY = {"energy": "1"}  # every token of the batch in the backward
BF16 = {"dtype": "bfloat16"}
WORDS = "merged tokens never cross the words of token classification"
SENTENCES = "its embeddings are of whole texts"

METHODS = {
    "full": Way("full fine-tuning", {"method": "full"}, headline=True),
    "head": Way("head only", HEAD),
    "bitfit": Way("BitFit", HEAD, method=baselines.BitFit("head")),
    "layers": Way("whole layers", HEAD, method=baselines.WholeLayers("head")),
    "lora": Way("LoRA", HEAD, method=baselines.LoRA("head")),
    "lora_32": Way("LoRA, r 32", HEAD, method=baselines.LoRA("head", rank=32), asked=True),
    "dora": Way("DoRA", HEAD, method=baselines.LoRA("head", dora=True), asked=True),
    "lora_qv": Way("LoRA, query and value", {"method": "lora"}, asked=True),
    "prefix": Way("prefix tuning", HEAD, method=baselines.Prefix("head")),
    "shira": Way("SHiRA", HEAD, method=baselines.Shira("head")),
    "shira_10": Way("SHiRA, 10 %", HEAD, method=baselines.Shira("head", share=0.1), asked=True),
    "supertuning": Way("Super-Tuning, 10 %", HEAD, method=baselines.SuperTuning("head"), asked=True),
    "embed_logistic": Way("logistic regression on frozen vectors", HEAD, run=logistic.run, tuned="C", ladder=PENALTIES, asked=True),
    "setfit": Way("SetFit", HEAD, run=contrastive.run, given={"num_iterations": 20}, ladder=(2e-5,), package="setfit", asked=True,
                  kinds=("sequence",), refusal=SENTENCES),
    "setfit_tuned": Way("SetFit, rate tuned", HEAD, run=contrastive.run, given={"num_iterations": 5}, package="setfit", asked=True,
                        kinds=("sequence",), refusal=SENTENCES),
    "blocks_wide": Way("ours", BLOCKS, group="ours", headline=True, density_times=4),
    "active": Way("ours, active tokens", ACTIVE, group="ours", headline=True, density_times=5),
    "active_99": Way("ours, active tokens, 0.99", GROUPS | {"energy": "0.99"}, group="ours", asked=True, density_times=5),
    "skip": Way("ours, easy examples skipped", GROUPS | EVERY | SKIP, group="ours", headline=True, density_times=5,
                rates_of="groups"),
    "skip_active": Way("ours, both", ACTIVE | SKIP, group="ours", asked=True, density_times=5, rates_of="groups"),
    "noise": Way("ours, drawn tokens", GROUPS | EVERY | {"noise": 0.03}, group="ours", headline=True, density_times=5,
                 rates_of="groups"),
    "cost_40": Way("ours, cost 0.4", GROUPS | EVERY | {"cost": 0.4}, group="ours", headline=True, density_times=5, rates_of="groups"),
    "cost_33": Way("ours, cost 0.33", GROUPS | EVERY | {"cost": 0.33}, group="ours", asked=True, density_times=5, rates_of="groups"),
    "cost_25": Way("ours, cost 0.25", GROUPS | EVERY | {"cost": 0.25}, group="ours", asked=True, density_times=5, rates_of="groups"),
    "cost_33_bf16": Way("ours, cost 0.33, bf16", GROUPS | EVERY | {"cost": 0.33} | BF16, group="ours", asked=True, density_times=5,
                        rates_of="groups"),
    "groups_bf16": Way("ours, bf16", GROUPS | EVERY | BF16, group="ours", asked=True, density_times=5, rates_of="groups"),
    "groups_autocast": Way("ours, bf16 by autocast", GROUPS | EVERY | {"precision": "bf16"}, group="ours", asked=True, density_times=5,
                           rates_of="groups"),
    "full_bf16": Way("full fine-tuning, bf16", {"method": "full"} | BF16, asked=True, rates_of="full"),
    "head_replay": Way("head only, replayed", HEAD | {"replay": True}, asked=True, rates_of="head"),
    "head_mix": Way("head only, all layers mixed", HEAD | {"replay": True, "mix_layers": True}, asked=True, rates_of="head"),
    "groups": Way("ours, dealt groups", GROUPS | EVERY, group="ours", headline=True, density_times=5),
    "blocks": Way("ours, a quarter of the blocks", BLOCKS, group="ours"),
    "sparse": Way("ours, columns", SPARSE, group="ours", headline=True),
    "upper": Way("ours, upper third", SPARSE | {"layers": "upper third"}, group="ours", asked=True, density_times=3),
    "wide": Way("ours, four times the columns", SPARSE, group="ours", density_times=4),
    "cost": Way("ours, half the cost", SPARSE | HALF, group="ours"),
    "tokens": Way("ours, token groups", SPARSE | {"select": "tokens"}, group="ours", headline=True),
    "elements": Way("ours, scattered elements", SPARSE | {"select": "random", "kind": "elements"}, group="ours", asked=True),
    "merged": Way("ours, merged tokens", SPARSE | {"select": "tokens", "merge_tokens": 50, "merge_by": "saving"}, group="ours",
                  kinds=("sequence",), refusal=WORDS),
    "random": Way("random selection", SPARSE, method=baselines.RandomUnits("sparse"), group="control"),
    "random_tokens": Way("random tokens", ACTIVE, method=baselines.RandomTokens("sparse"), group="control", density_times=5,
                         rates_of="active"),
    "random_groups": Way("random groups", SPARSE | {"select": "tokens"}, method=baselines.RandomGroups("sparse"), group="control"),
}  # fmt: skip

# Which of others `train`'s default is to be better than, by CLAIM.md.
CLAIMED = (
    "lora",
    "lora_32",
    "dora",
    "shira",
    "shira_10",
    "supertuning",
    "bitfit",
    "layers",
    "head_replay",
    "embed_logistic",
    "setfit_tuned",
)

# What an interval is computed for: the first against the second.
CONTRASTS = (
    ("active", "groups"), ("active", "full"), ("active", "random_tokens"),
    ("groups", "blocks_wide"), ("groups", "full"), ("blocks_wide", "full"), ("blocks_wide", "lora"), ("blocks_wide", "shira"), ("blocks_wide", "wide"), ("blocks", "sparse"),
    ("sparse", "random"), ("tokens", "random_groups"), ("tokens", "sparse"), ("tokens", "random"), ("tokens", "full"),
    ("tokens", "lora"), ("sparse", "full"), ("sparse", "lora"), ("wide", "full"), ("wide", "lora"), ("cost", "full"),
    ("merged", "tokens"), ("cost_40", "full"), ("cost_40", "lora_32"), *(("groups", other) for other in CLAIMED),
)  # fmt: skip


def available(asked: list[str]) -> tuple[list[str], dict[str, str]]:
    """The methods to run, and why the others cannot.

    Raises:
        ValueError: for a method asked for by name that there is not, or that TrainConfig cannot do yet.
    """
    reasons = {name: f"needs {way.missing()}" for name, way in METHODS.items() if way.missing()}
    for name in asked:
        if name not in METHODS:
            raise ValueError(f"tasks: methods must be among {', '.join(METHODS)}, got {name!r}")
        if name in reasons:
            raise ValueError(f"tasks: method {name!r} {reasons[name]}, which this version does not have")
    if asked:
        return asked, {}
    reasons = {name: reason for name, reason in reasons.items() if not METHODS[name].asked}
    return [name for name, way in METHODS.items() if not way.asked and name not in reasons], reasons


def check_packages(methods: Sequence[str]) -> None:
    """Raises ValueError for a method whose package is not there."""
    for name in methods:
        package = METHODS[name].package
        if package and find_spec(package) is None:
            raise ValueError(f"tasks: method {name!r} needs the package {package}, which is not installed: pip install {package}")
