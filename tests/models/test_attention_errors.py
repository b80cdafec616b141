"""Models that cannot be made bidirectional, or are so already; layers, attention implementations and caches that do not fit."""

import pytest
import transformers as tf
from models import CONFIGS, GROUPED, SIZES, build
from tiny_decoders import FAMILIES, decoder, states, text
from torch import nn

import clm_kernels as clm
from clm_kernels.models.attention import CONFIG_KEY

MIXED = {"layer_types": ["linear_attention", "full_attention"]}
REFUSED = {
    "MambaModel": tf.MambaConfig(hidden_size=16, num_hidden_layers=2),
    "Qwen3NextModel": tf.Qwen3NextConfig(**SIZES | GROUPED | MIXED, num_experts=2),
    "GPTNeoModel": tf.GPTNeoConfig(vocab_size=64, hidden_size=32, num_layers=2, num_heads=4, attention_types=[[["global"], 2]]),
    "BloomModel": tf.BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=4),
    "T5Model": tf.T5Config(vocab_size=9, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2),
    "T5GemmaModel": tf.T5GemmaConfig(encoder=SIZES | GROUPED, decoder=SIZES | GROUPED),
    "BartModel": tf.BartConfig(vocab_size=9, d_model=16, encoder_layers=1, decoder_layers=1),
}

if "gptj" not in FAMILIES:
    REFUSED["GPTJModel"] = CONFIGS["gptj"][0](**CONFIGS["gptj"][1])


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_made_bidirectional_is_refused(name):
    model = tf.AutoModel.from_config(REFUSED[name])
    with pytest.raises(ValueError, match=rf"bidirectional: model must be a decoder of transformers .*, got {name}$"):
        clm.bidirectional(model)
    assert not any(module._forward_pre_hooks for module in model.modules()) and not hasattr(model.config, CONFIG_KEY)


def test_a_layer_that_also_reads_otherwise_is_refused():
    model = build("qwen3")
    model.config.layer_types = ["full_attention", "hybrid"]  # attention and a state space side by side
    with pytest.raises(ValueError, match=r"model must be a decoder of transformers .*, got Qwen3ForSequenceClassification$"):
        clm.bidirectional(model)


def test_a_plain_module_is_refused_and_left_causal():
    with pytest.raises(ValueError, match=r"model must be a decoder of transformers .*, got Linear$"):
        clm.bidirectional(nn.Linear(2, 2))
    plain = nn.Linear(2, 2)
    assert clm.causal(plain).model is plain and clm.restore_attention(plain).model is plain


@pytest.mark.parametrize("family", ["bert", "distilbert", "deberta", "modernbert", "gemma3", "llama"])
def test_what_sees_both_sides_already_is_left_alone_and_said(family):
    changes = {"gemma3": {"use_bidirectional_attention": True}, "llama": {"is_causal": False}}.get(family, {})
    model = build(family, **changes)
    config = model.config.to_dict()
    with pytest.warns(UserWarning, match=f"bidirectional: {type(model).__name__} .*to both sides already"):
        assert clm.bidirectional(model, (1, 2)).model is model
    clm.causal(model)
    assert model.config.to_dict() == config and not any(module._forward_pre_hooks for module in model.modules())


def test_what_transformers_does_not_heed_is_refused():
    config = tf.Gemma2Config(**SIZES | GROUPED, use_bidirectional_attention=True)  # its masks are causal all the same
    with pytest.raises(ValueError, match=r"model must be a decoder of transformers .*, got Gemma2Model$"):
        clm.bidirectional(tf.AutoModel.from_config(config))


@pytest.mark.parametrize(
    "layers", ["lower half", (2, 5), (-1, 2), (3, 3), (3, 1), range(0, 4, 2), range(0), [1], (0.0, 2.0), (False, True), 3, None]
)
def test_layers_that_there_are_not(layers):
    model = clm.bidirectional(decoder("llama"), (1, 2)).model
    with pytest.raises(ValueError, match=r"bidirectional: layers must be .* of 0 to 3 .*, got "):
        clm.bidirectional(model, layers)
    assert clm.bidirectional_layers(model) == range(1, 2)  # as before


@pytest.mark.parametrize("when", ["before", "after"])
def test_other_attention_implementations_are_refused(when):
    model = decoder("llama")
    if when == "after":
        clm.bidirectional(model, "upper half")
    model.config._attn_implementation = "flex_attention"
    with pytest.raises(ValueError, match="must be eager, sdpa, flash_attention_2, got flex_attention"):
        clm.bidirectional(model) if when == "before" else states(model, text() | {"attention_mask": None})


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_nothing_is_cached(family):
    """What was cached of a text would change with every new token."""
    model, inputs = clm.bidirectional(decoder(family)).model, text()
    assert model.config.use_cache and not getattr(model(**inputs), "past_key_values", None)
    with pytest.raises(ValueError, match="bidirectional: use_cache must be False, got True"):
        model(**inputs, use_cache=True)
    assert model(**inputs, use_cache=False).last_hidden_state.isfinite().all()
    assert len(clm.causal(model).model(**inputs).past_key_values)
