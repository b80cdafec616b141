"""`estimate --cost`: the share of tokens and examples that keeps a run to it, by counted steps."""

from dataclasses import replace

import pytest
import transformers as tf

from clm_kernels.finetune import TrainConfig
from clm_kernels.measure.estimate import estimate

SIZE = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128, "vocab_size": 500}
FAMILIES = {
    "bert": tf.BertConfig(**SIZE, num_labels=5),
    "llama": tf.LlamaConfig(**SIZE, num_key_value_heads=2, num_labels=5, pad_token_id=0),
}
CONFIG = TrainConfig(batch_size=4, kind="groups", density=0.125, epochs=4)
LENGTH = 24


@pytest.mark.parametrize("family", ["bert", "llama"])
@pytest.mark.parametrize("cost", [0.25, 0.45])
def test_such_a_run_costs_that_part_of_full_fine_tuning(family, cost):
    found = estimate(FAMILIES[family], replace(CONFIG, cost=cost), LENGTH)
    full = estimate(FAMILIES[family], replace(CONFIG, method="full"), LENGTH)
    share = found.examples_share
    assert found.active_share == share and 0.1 < share < 1
    assert (1 + 3 * share) * found.flops / 4 == pytest.approx(cost * full.flops, rel=1e-3)


def test_memory_is_that_of_a_run_that_leaves_tokens_out():
    paced, active = (estimate(FAMILIES["bert"], replace(CONFIG, **asked), LENGTH) for asked in ({"cost": 0.4}, {"energy": "0.9"}))
    assert (paced.peak, paced.activations) == pytest.approx((active.peak, active.activations), rel=0.02)
    assert active.examples_share is None


@pytest.mark.parametrize(
    ("cost", "message"), [(0.05, "at least 0\\.\\d+, what 4 epochs take"), (0.95, "below 0\\.\\d+, what all")]
)
def test_what_cannot_be_reached_is_refused(cost, message):
    with pytest.raises(ValueError, match=f"^train: cost must be .*{message}"):
        estimate(FAMILIES["bert"], replace(CONFIG, cost=cost), LENGTH)
