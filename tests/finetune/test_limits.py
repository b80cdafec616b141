"""What makes texts no longer: the option, the tokenizer or the model's positions."""

from types import SimpleNamespace

import pytest
from models import build

from clm_kernels.finetune.models import Loaded, limited_by, longest


@pytest.mark.parametrize(
    ("option", "tokenizer", "limit", "by"),
    [
        (20, 40, 20, "max_length"),
        (40, 20, 20, "the tokenizer's model_max_length"),
        (40, 40, 40, "the tokenizer's model_max_length"),
        (4096, 10**30, 64, "the number of the model's positions"),
        (64, 64, 64, "the number of the model's positions"),
    ],
)
def test_the_limit_and_whose_it_is(option, tokenizer, limit, by):
    loaded = Loaded(build("bert", max_position_embeddings=64), SimpleNamespace(model_max_length=tokenizer), [], [])
    assert (longest(loaded, option), limited_by(loaded, option)) == (limit, by)
