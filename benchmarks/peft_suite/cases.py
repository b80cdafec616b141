"""The adapters, and the tiny models, that PEFT's tests are run with here."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import torch
import transformers as tf

from clm_kernels.peft import ClmConfig

from .theirs import CHECKPOINTS

KINDS = ("groups", "rows", "columns", "blocks", "elements")
SHARED = {"density": 0.3, "block": 2}
BESIDE = {**SHARED, "init_weights": False}  # adapters that do something from the beginning


def _case(name: str, model: str, **options: object) -> tuple:
    return name, model, ClmConfig, {**SHARED, **options}


CUSTOM = [
    *(_case(f"MLP, {kind}", "MLP", target_modules="lin0", kind=kind) for kind in KINDS),
    _case("MLP, both", "MLP", target_modules=["lin0", "lin1"]),
    _case("MLP, head saved", "MLP", target_modules=["lin0"], modules_to_save=["lin1"]),
    _case("MLP, biases", "MLP", target_modules=["lin0"], biases=True),
    _case("MLP, everything selected", "MLP", target_modules=["lin0"], kind="rows", density=1.0),
    _case("embedding", "EmbConv1D", target_modules=["emb"], kind="rows"),
    *(_case(f"Conv1D, {kind}", "EmbConv1D", target_modules=["conv1d"], kind=kind, block=1) for kind in KINDS),
    _case("embedding and Conv1D", "EmbConv1D", target_modules=["emb", "conv1d"], kind="rows"),
]
SEVERAL = [
    (f"{name}, {kind}", "clm", ClmConfig, {**BESIDE, "kind": kind, **first}, {**BESIDE, "kind": kind, "seed": 7, **second})
    for kind in KINDS
    for name, first, second in (
        ("same target", {"target_modules": ["lin0"]}, {"target_modules": ["lin0"]}),
        ("other targets", {"target_modules": ["lin0"]}, {"target_modules": ["lin1"]}),
    )
]
OTHER_TASKS = {
    "test_decoder_models": "CAUSAL_LM",
    "test_encoder_decoder_models": "SEQ_2_SEQ_LM",
    "test_feature_extraction_models": "FEATURE_EXTRACTION",
    "test_seq_classifier": "SEQ_CLS",
}
TRANSFORMERS = [
    (ClmConfig, {"target_modules": None, "density": 0.2}),
    (
        ClmConfig,
        {"target_modules": ["query", "value", "q_proj", "v_proj", "c_attn", "q", "v"], "kind": "columns", "density": 0.2},
    ),
]
_SIZES = {"vocab_size": 128, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
_T5 = {"vocab_size": 128, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
_GPT2 = {"vocab_size": 128, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
_MODELS = {
    "test_decoder_models": {
        "llama": (tf.LlamaForCausalLM, tf.LlamaConfig, _SIZES),
        "gpt2": (tf.GPT2LMHeadModel, tf.GPT2Config, _GPT2),
        "qwen2": (tf.Qwen2ForCausalLM, tf.Qwen2Config, _SIZES | {"num_key_value_heads": 2}),
    },
    "test_encoder_decoder_models": {"t5": (tf.T5ForConditionalGeneration, tf.T5Config, _T5)},
    "test_feature_extraction_models": {
        "bert": (tf.BertModel, tf.BertConfig, _SIZES),
        "roberta": (tf.RobertaModel, tf.RobertaConfig, _SIZES),
    },
    "test_seq_classifier": {
        "bert": (tf.BertForSequenceClassification, tf.BertConfig, _SIZES),
        "llama": (tf.LlamaForSequenceClassification, tf.LlamaConfig, _SIZES | {"pad_token_id": 0}),
    },
    "test_token_classification_qa": {"bert": (tf.BertForTokenClassification, tf.BertConfig, _SIZES)},
}


@functools.cache
def folders(module: str) -> tuple[str, ...]:
    """Random checkpoints of tiny models, for a module of tests."""
    root, found = Path(os.environ[CHECKPOINTS]), []
    for name, (make, config, sizes) in _MODELS[module].items():
        torch.manual_seed(0)
        path = root / module / f"tiny-random-{name}"
        make(config(**sizes)).save_pretrained(path)
        found.append(str(path))
    return tuple(found)
