"""A config: five parts, made flat or of parts, one place for each option and its default."""

import dataclasses

import pytest

from clm_kernels.defaults import BATCH_SIZE, BLOCK, MAX_LENGTH, MERGE_BY, POOLINGS, SEED
from clm_kernels.finetune.config import OPTIONS, PARTS, Data, TrainConfig, Training
from clm_kernels.models.pooled_head import POOLED
from clm_kernels.selecting.config import Select
from clm_kernels.token_groups.merging import BY


def test_options_are_given_flat_or_as_parts():
    flat = TrainConfig(model="m", epochs=2, block=4)
    assert flat == TrainConfig(data=Data(model="m"), training=Training(epochs=2), selecting=Select(block=4))
    assert flat == TrainConfig(training=Training(epochs=7), epochs=2, model="m", block=4)  # an option before its part's field
    assert TrainConfig(**flat.options()) == flat and flat.options()["epochs"] == 2


def test_a_config_is_changed_by_a_copy():
    config = TrainConfig(model="m")
    changed = config.replace(epochs=2, data=Data(model="n"))
    assert (changed.training.epochs, changed.data.model, config.training.epochs) == (2, "n", 5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.training.epochs = 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.training = Training()


@pytest.mark.parametrize("make", [TrainConfig, TrainConfig().replace])
def test_an_option_that_there_is_not(make):
    with pytest.raises(TypeError, match=r"^TrainConfig: options must be among model, train, .*, got 'epoch'$"):
        make(epoch=3)


def test_each_option_stands_in_one_part():
    fields = [spec.name for part in PARTS.values() for spec in dataclasses.fields(part)]
    assert len(fields) == len(set(fields)) == len(OPTIONS) and not set(fields) & set(PARTS)
    assert all(spec.metadata["help"] for part in PARTS.values() for spec in dataclasses.fields(part))


def test_defaults_are_those_of_the_bottom_layer():
    config = TrainConfig()
    found = (config.selecting.block, config.training.batch_size, config.data.max_length, config.run.seed)
    assert found == (BLOCK, BATCH_SIZE, MAX_LENGTH, SEED)
    assert POOLINGS == ("native", *POOLED) and set(MERGE_BY) == set(BY)


INF, HUGE = float("inf"), 2**63


@pytest.mark.parametrize(("options", "message"), [
    ({"learning_rate": INF}, "learning_rate must be above 0, and finite, got inf"),
    ({"learning_rate": float("nan")}, "learning_rate must be above 0, and finite, got nan"),
    ({"weight_decay": INF}, "weight_decay must be 0 or more, and finite, got inf"),
    ({"lora_alpha": INF}, "lora_alpha must be above 0, and finite, got inf"),
    ({"epochs": INF}, "epochs must be above 0, and at most 1000000, got inf"),
    ({"epochs": 1e300}, "epochs must be above 0, and at most 1000000, got 1e"),
    ({"seed": -1}, r"seed must be 0 or more, and below 2\*\*32 with all that follow, got -1"),
    ({"seed": 2**32}, r"seed must be 0 or more, .*, got 4294967296"),
    ({"seed": 2**32 - 2, "seeds": 3}, "seed must be 0 or more, .*, got 4294967294"),
    ({"batch_size": HUGE}, f"batch_size must be at most 2147483647, got {HUGE}"),
    ({"eval_steps": HUGE}, "eval_steps must be at most 2147483647"),
    ({"max_length": HUGE}, "max_length must be 8 or more, and at most 2147483647"),
    ({"scheduler": "nonsense"}, "scheduler must be 'linear', 'cosine', .* or 'reduce_lr_on_plateau', got 'nonsense'"),
    ({"scheduler": "warmup_stable_decay"}, "scheduler must be 'linear'"),
])  # fmt: skip
def test_values_that_nothing_can_take_are_refused_by_the_config(options, message):
    with pytest.raises(ValueError, match=f"^train: {message}"):
        TrainConfig(**options).check(())
    TrainConfig(seed=2**32 - 1, epochs=1e6, batch_size=2**31 - 1, scheduler="cosine").check(())
