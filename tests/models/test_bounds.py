"""What a config of a stranger may count, before anything of it is built."""

import json

import pytest

from clm_kernels.models.bounds import check_files

WRONG = {
    "no number": ({"layer_norm_eps": float("nan")}, "'layer_norm_eps'.* must be a number, got nan"),
    "many layers": ({"num_hidden_layers": 10**6}, "'num_hidden_layers'.* must be at most 100,000, got 1000000"),
    "no heads": ({"num_attention_heads": -1}, "'num_attention_heads'.* must be at least 1, got -1"),
    "no head inside": ({"text": {"n_head": 0}}, "'n_head'.* must be at least 1, got 0"),
    "more than certain": ({"hidden_dropout_prob": 1.5}, r"'hidden_dropout_prob'.* must be in \[0, 1\], got 1.5"),
}


@pytest.mark.parametrize("name", WRONG)
def test_numbers_that_no_model_has(tmp_path, name):
    config, message = WRONG[name]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"^read: {message}$"):
        check_files("read", tmp_path)


def test_numbers_that_models_have(tmp_path):
    config = {"num_attention_heads": 1, "num_hidden_layers": 0, "vision_feature_layer": -2, "hidden_dropout_prob": 1.0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    check_files("read", tmp_path)
