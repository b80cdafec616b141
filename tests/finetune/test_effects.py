"""Options that have no effect are refused: every option against every method, in one table."""

from dataclasses import replace

import pytest
import torch

from clm_kernels.finetune import TrainConfig
from clm_kernels.finetune.config import DEFAULTS
from clm_kernels.finetune.effects import ALONE, BESIDE, WITHOUT, idle
from clm_kernels.finetune.names import METHODS

GIVEN = {"model": "m", "train": "t", "output": "o"}
OTHER = {  # a value that is not the default, of each option that may be idle
    "select": "fisher", "density": 0.3, "backward": 0.5, "kind": "columns", "block": 4, "per": "weight", "biases": False,
    "norms": False, "selection": "s", "layers": "upper half", "lora_rank": 4, "lora_alpha": 8, "lora_dropout": 0.0,
    "lora_targets": "all-linear", "energy": "0.9", "noise": 0.1, "cost": 0.5, "mix_layers": True, "merge_by": "score",
    "validation_fraction": 0.3, "gradient_checkpointing": True, "recompute_norms": True, "shares": "0.5",
}  # fmt: skip


def test_every_method_stands_in_the_table():
    assert WITHOUT.keys() == METHODS.keys()
    named = [*WITHOUT.values(), *(names for names, _ in (*BESIDE.values(), *ALONE.values()))]
    assert {name for names in named for name in names} <= OTHER.keys() <= DEFAULTS.keys()


@pytest.mark.parametrize("method", METHODS)
def test_every_option_against_every_method(method):
    for name, value in OTHER.items():
        config = TrainConfig(**GIVEN, **{name: value} | {"method": method})
        refused = [reason for found, reason in idle(config.options()) if found == name]
        if refused:
            with pytest.raises(ValueError, match=f"^train: {name} must be left out {refused[0]}, got {value!r}$"):
                config.check()
        else:
            config.check()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "head", "lora_rank": 4}, "lora_rank must be left out with the method head, got 4"),
        ({"density": 0.1, "selection": "s"}, "density must be left out with a selection that is given, got 0.1"),
        ({"validation": "v", "validation_fraction": 0.2}, "validation_fraction must be left out with validation data, got 0.2"),
        ({"merge_by": "score"}, "merge_by must be left out without merge_tokens, got 'score'"),
        ({"kind": "columns", "block": 4}, "block must be left out with the kind columns, got 4"),
        ({"method": "head", "recompute_norms": True}, "recompute_norms must be left out with the method head, whose backward"),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(ValueError, match=f"^train: {message}"):
        TrainConfig(**GIVEN, **options).check()


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "blocks", "block": 4}, {"block": 4}, {"merge_tokens": 3, "merge_by": "score"}, {"method": "lora", "lora_rank": 4},
        {"method": "head", "merge_tokens": 3, "gradient_checkpointing": True}, {"selection": "s", "biases": False},
    ],
)  # fmt: skip
def test_what_has_an_effect_is_taken(options):
    TrainConfig(**GIVEN, **options).check()


def test_another_method_takes_along_what_it_has_no_use_for():
    config = TrainConfig(**GIVEN, density=0.1, energy="0.9", epochs=2)
    for changed in (config.replace(method="head"), replace(config, method="head")):
        assert (changed.selecting.density, changed.training.energy, changed.training.epochs) == (None, "1", 2)
        assert "density" not in changed.given and "epochs" in changed.given
        changed.check()
    with pytest.raises(ValueError, match="density must be left out"):
        config.replace(method="head", density=0.2).replace(epochs=1).check()  # what was given on purpose is not lost


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is an accelerator")
def test_fp16_on_a_cpu():
    pytest.importorskip("datasets")
    from clm_kernels.finetune import train

    with pytest.raises(ValueError, match=r"^train: precision must be float32 or bf16 on a CPU, where fp16 changes nothing, got"):
        train(TrainConfig(**GIVEN, precision="fp16"))
