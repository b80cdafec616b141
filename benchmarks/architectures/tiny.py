"""Tiny checkpoints of every type, drawn at random: sizes go by the names that a type's own config has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import CONFIG_MAPPING, AutoModel, PreTrainedTokenizerFast

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{i}" for i in range(59))]
SIZES: dict[str, Any] = {
    **dict.fromkeys(("vocab_size",), len(WORDS)),
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "emb_dim", "embedding_size", "embed_dim", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_global_key_value_heads"), 2),
    **dict.fromkeys(("head_dim", "d_kv", "d_head", "attention_head_dim", "global_head_dim", "kv_channels"), 8),
    **dict.fromkeys(("intermediate_size", "n_inner", "dff", "d_ff", "d_inner", "hidden_dim", "ffn_dim", "encoder_ffn_dim"), 48),
    **dict.fromkeys(("decoder_ffn_dim", "ffn_hidden_size", "feed_forward_size"), 48),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 16),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "original_max_position_embeddings"), 64),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk"), 2),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 16),
    **dict.fromkeys(("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"), 8),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts"), 1),
    **dict.fromkeys(("pad_token_id",), 0),
    **dict.fromkeys(("bos_token_id", "cls_token_id"), 2),
    **dict.fromkeys(("eos_token_id", "sep_token_id"), 3),
}  # fmt: skip
OWN: dict[str, dict[str, Any]] = {  # what a type needs beside these
    "big_bird": {"attention_type": "original_full"},
    "longformer": {"attention_window": [4, 4]},
    "funnel": {"block_sizes": [1, 1], "num_decoder_layers": 1, "d_inner": 48, "architectures": ["FunnelModel"]},
    "xlm-roberta": {"pad_token_id": 1},
    "mobilebert": {"embedding_size": 32, "intra_bottleneck_size": 32, "true_hidden_size": 32},
    "reformer": {"axial_pos_shape": [8, 8], "axial_pos_embds_dim": [16, 16], "attn_layers": ["local", "local"], "attention_head_size": 8,
                 "feed_forward_size": 48, "is_decoder": False, "local_attn_chunk_length": 4},
    "lilt": {"hidden_size": 48},
    "squeezebert": {"embedding_size": 32},
    "jamba": {"attn_layer_offset": 1, "attn_layer_period": 2},
    "mistral4": {"head_dim": 16},
    "gptj": {"rotary_dim": 4},
    "esmc": {"num_key_value_heads": 4},
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10_000.0}}},
    "esm": {"mask_token_id": 4},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
}  # fmt: skip


def tiny_config(kind: str) -> Any:
    """The config of a tiny model of this type."""
    plain = CONFIG_MAPPING[kind]()
    known = {*plain.to_dict(), *plain.attribute_map}
    sizes = {name: value for name, value in SIZES.items() if name in known and not isinstance(getattr(plain, name, None), dict)}
    if "kv_lora_rank" in known:  # DeepSeek's attention has as many keys as queries
        sizes["num_key_value_heads"] = sizes["num_attention_heads"]
    for name in ("layer_types", "mlp_layer_types", "layers_block_type"):
        if isinstance(layers := plain.to_dict().get(name), list):
            sizes[name] = (list(dict.fromkeys(layers)) * 2)[:2]  # one of each kind
    return CONFIG_MAPPING[kind](**sizes | OWN.get(kind, {}))


def save_tiny(kind: str, folder: Path) -> None:
    """Writes a base model without a head, as pretrained checkpoints are, and a tokenizer that knows a few words."""
    torch.manual_seed(0)
    config = tiny_config(kind)
    model = AutoModel.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"pad_token": WORDS[getattr(config, "pad_token_id", None) or 0], "unk_token": "[UNK]", "eos_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=48, **names).save_pretrained(folder)
