"""Decoders and texts for tests of attention to both sides."""

import torch
import transformers as tf
from models import COMMON, CONFIGS, GROUPED, SIZES

LAYERS, LENGTH, WINDOW = 4, 8, 3


SLIDING = {"sliding_window": WINDOW}


FAMILIES = {
    "llama": (tf.LlamaConfig, SIZES | GROUPED),
    "qwen2": (tf.Qwen2Config, SIZES | {"num_key_value_heads": 2} | SLIDING | {"use_sliding_window": True, "max_window_layers": 2}),
    "qwen3": (tf.Qwen3Config, SIZES | GROUPED),
    "mistral": (tf.MistralConfig, SIZES | GROUPED | SLIDING),
    "gemma3": (tf.Gemma3TextConfig, SIZES | GROUPED | SLIDING | {"layer_types": ["sliding_attention", "full_attention"] * 2}),
    "gpt2": CONFIGS["gpt2"],
    "opt": (tf.OPTConfig, SIZES | {"ffn_dim": 48, "word_embed_proj_dim": 32, "do_layer_norm_before": True}),
}  # fmt: skip


def decoder(family, attention="eager", seed=0):
    """Four layers without a head and without dropout; biases and norms are away from 0 and 1."""
    torch.manual_seed(seed)
    make, own = FAMILIES[family]
    depth = {"n_layer": LAYERS} if family in ("gpt2", "gptj") else {"num_hidden_layers": LAYERS}
    model = tf.AutoModel.from_config(make(**COMMON | own | depth), attn_implementation=attention)
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def text(size=3):
    """Ids; a right-padded text, one without padding, a left-padded one."""
    ids = torch.randint(3, 64, (3, LENGTH), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, -3:], mask[2, :2] = 0, 0
    return {"input_ids": ids[:size], "attention_mask": mask[:size]}


def states(model, inputs, **changed):
    with torch.no_grad():
        return model(**inputs | changed).last_hidden_state
