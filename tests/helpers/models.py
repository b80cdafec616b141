"""Tiny models of each family, built from configs, and selections over all of their weights."""

import torch
import transformers as tf
from torch import nn

from clm_kernels import Entries, Selection
from clm_kernels.models.structure import head_names

SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
COMMON = {"num_labels": 3, "pad_token_id": 0, "max_position_embeddings": 32}
GROUPED = {"num_key_value_heads": 2, "head_dim": 8, "bos_token_id": 1, "eos_token_id": 2}

CONFIGS = {
    "bert": (tf.BertConfig, SIZES),
    "minilm": (tf.BertConfig, SIZES | {"hidden_size": 24, "num_attention_heads": 12, "intermediate_size": 96}),
    "roberta": (tf.RobertaConfig, SIZES | {"type_vocab_size": 1, "pad_token_id": 1}),
    "distilbert": (tf.DistilBertConfig, {"vocab_size": 64, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}),
    "deberta": (
        tf.DebertaV2Config,
        SIZES | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False, "max_relative_positions": 8,
                 "norm_rel_ebd": "layer_norm", "share_att_key": True, "position_buckets": 4},
    ),
    "modernbert": (tf.ModernBertConfig, SIZES | {"bos_token_id": 1, "cls_token_id": 1, "eos_token_id": 2, "sep_token_id": 2}),
    "llama": (tf.LlamaConfig, SIZES | GROUPED),
    "qwen3": (tf.Qwen3Config, SIZES | GROUPED),
    "gemma3": (tf.Gemma3TextConfig, SIZES | GROUPED | {"sliding_window": 16}),
    "gpt2": (tf.GPT2Config, {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 48, "bos_token_id": 1, "eos_token_id": 2}),
    "gptj": (tf.GPTJConfig, {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 48, "rotary_dim": 4, "bos_token_id": 1,
                             "eos_token_id": 2}),
    "albert": (tf.AlbertConfig, SIZES | {"embedding_size": 16}),
    "deberta-v1": (tf.DebertaConfig, SIZES | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "max_relative_positions": 8}),
    "mpnet": (tf.MPNetConfig, SIZES),
    "falcon": (tf.FalconConfig, SIZES | {"bos_token_id": 1, "eos_token_id": 2}),
    "qwen2": (tf.Qwen2Config, SIZES | GROUPED),
    "mistral": (tf.MistralConfig, SIZES | GROUPED | {"sliding_window": 16}),
    "opt": (
        tf.OPTConfig,
        {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 48, "word_embed_proj_dim": 32,
         "bos_token_id": 1, "eos_token_id": 2},
    ),
}  # fmt: skip
RELATIVES = {  # nearly the code of another family; for tests that go by the config's type
    "camembert": (tf.CamembertConfig, SIZES | {"type_vocab_size": 1, "pad_token_id": 1}),
    "xlm-roberta": (tf.XLMRobertaConfig, SIZES | {"type_vocab_size": 1, "pad_token_id": 1}),
    "gemma": (tf.GemmaConfig, SIZES | GROUPED),
    "gemma2": (tf.Gemma2Config, SIZES | GROUPED | {"sliding_window": 16}),
}
DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout", "seq_classif_dropout", "embd_pdrop",
            "resid_pdrop", "attn_pdrop", "classifier_dropout", "classifier_dropout_prob", "mlp_dropout", "embedding_dropout", "pooler_dropout")  # fmt: skip
MORE_FAMILIES = ("gptj", "albert", "deberta-v1", "mpnet", "falcon", "qwen2", "mistral", "opt")
FAMILIES = tuple(family for family in CONFIGS if family not in MORE_FAMILIES)
DECODERS = ("llama", "qwen3", "gemma3", "gpt2")
AUTO = {
    "sequence": tf.AutoModelForSequenceClassification,
    "token": tf.AutoModelForTokenClassification,
    "causal": tf.AutoModelForCausalLM,
}


def build(family="bert", task="sequence", dtype=torch.float32, seed=0, dropout=0.0, **changes):
    """A tiny model in training mode; `task` is sequence, token or causal."""
    torch.manual_seed(seed)
    make, own = (CONFIGS | RELATIVES)[family]
    config = make(**COMMON | own | changes)
    for name in DROPOUTS:
        if hasattr(config, name) and (getattr(config, name) is not None or dropout):
            setattr(config, name, dropout)
    model = AUTO[task].from_config(config)
    for parameter in model.parameters():  # initialisation leaves biases at 0 and norms at 1, which hides mistakes
        if parameter.dim() == 1:
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model.to(dtype).train()


def batch(model, size=4, length=7, seed=0, task="sequence"):
    """A right-padded batch with labels."""
    random = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, model.config.vocab_size, (size, length), generator=random)
    mask = torch.ones_like(ids)
    mask[0, length - 2 :] = 0
    ids[mask == 0] = model.config.pad_token_id
    if task == "causal":
        labels = ids.masked_fill(mask == 0, -100)
    else:
        labels = torch.randint(0, 3, (size,) if task == "sequence" else (size, length), generator=random)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def entries(shape, kind="columns", density=0.2, seed=0):
    """Random entries of a weight of this shape, at least one; blocks are 4 by 2."""
    block = (4, 2) if kind == "blocks" else None
    units = Entries.of(kind, [], shape, block).units
    random = torch.Generator().manual_seed(seed)
    return Entries.of(kind, torch.randperm(units, generator=random)[: max(1, round(density * units))], shape, block)


def embeddings(model):
    """Names of the weights that are looked up by row."""
    modules = dict(model.named_modules())
    names = (name for name, parameter in model.named_parameters() if parameter.dim() == 2)
    return {name for name in names if isinstance(modules[name.rpartition(".")[0]], nn.Embedding)}


def select(model, kind="columns", density=0.2, seed=0, where=""):
    """Entries of every 2-D weight below the head whose name contains `where`; embeddings by row."""
    rows, head = embeddings(model), set(head_names(model))
    chosen = {}
    for i, (name, parameter) in enumerate(model.named_parameters()):
        if parameter.dim() == 2 and name not in head and where in name:
            fits = kind != "blocks" or (parameter.shape[0] % 4 == 0 and parameter.shape[1] % 2 == 0)
            chosen[name] = entries(tuple(parameter.shape), "rows" if name in rows or not fits else kind, density, seed + i)
    return Selection(chosen)


def everything(model, kind="rows", where=""):
    """All entries of every 2-D weight below the head whose name contains `where`."""
    return Selection((name, Entries.everything(kind, e.shape)) for name, e in select(model, where=where).items())


def bits(model):
    """An exact copy of everything the model's checkpoint holds."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def same(a, b):
    """Whether two dicts of tensors hold the same bits."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def frozen(model, selection):
    """The checkpoint with the selected entries set to 0, under all names of a tied weight: what must not change."""
    state, named = bits(model), dict(model.named_parameters(remove_duplicate=False))
    for name, chosen in selection.items():
        for twin in (other for other, parameter in named.items() if parameter is named[name]):
            state[twin].view(-1)[chosen.flat_index().flatten()] = 0
    return state


def train(model, optimizer, steps=3, seed=0, task="sequence"):
    """Some steps over different batches; returns the losses."""
    losses = []
    for step in range(steps):
        loss = model(**batch(model, seed=seed + step, task=task)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    return torch.stack(losses)
