"""Pooled heads of sequence classifiers: right over the real tokens alone, recorded, and taken back."""

import copy
import json
from inspect import signature

import pytest
import torch
from models import DECODERS, batch, bits, build, same, select, train
from tiny_task import save_model
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    DynamicCache,
    LlamaModel,
    T5Config,
    T5ForSequenceClassification,
)

import clm_kernels as clm
from clm_kernels.models.folders import PREFIX, read_config
from clm_kernels.models.pooled_head import POOLED, pool
from clm_kernels.models.pooling import CONFIG_KEY, current_pooling, pooling_of, set_pooling
from clm_kernels.models.portable import save_portable

ENCODERS = ("bert", "minilm", "roberta", "distilbert", "deberta", "modernbert")
DECODERS = (*DECODERS, "qwen2", "mistral", "opt")
FAMILIES = (*ENCODERS, *DECODERS)
BY_HAND = {
    "last": lambda real: real[-1],
    "mean": lambda real: real.mean(0),
    "max": lambda real: real.max(0).values,
    "cls": lambda real: real[0],
}
MASKS = {  # (texts, tokens), and the last one with a hole
    "right": [[1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 0]],
    "left": [[0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1, 1], [0, 1, 1, 1, 1, 1, 1]],
    "hole": [[1, 1, 1, 0, 1, 0, 0], [1, 1, 1, 1, 1, 1, 1], [0, 0, 1, 0, 1, 0, 0], [0, 1, 1, 1, 1, 1, 0]],
}


def head(model, pooled):
    """Each family's classifier on vectors (B, H); of BERT's, the pooler is left out, as sentence-transformers does."""
    kind = model.config.model_type
    if hasattr(model, "score"):
        return model.score(pooled)
    if kind == "bert":
        return model.classifier(pooled)
    if kind == "roberta":
        return model.classifier(pooled[:, None])
    if kind == "distilbert":
        return model.classifier(model.pre_classifier(pooled).relu())
    if kind == "deberta-v2":
        return model.classifier(model.pooler(pooled[:, None]))
    return model.classifier(model.drop(model.head(pooled)))


def masked(model, side, length=7):
    """Random ids, padding ids among the real ones as well, and a mask that alone says what is real."""
    ids = torch.randint(3, model.config.vocab_size, (4, length), generator=torch.Generator().manual_seed(1))
    mask = torch.tensor(MASKS[side])
    pad = 0 if model.config.pad_token_id is None else model.config.pad_token_id
    ids[1, -1] = ids[3, 4] = pad
    return {"input_ids": ids.masked_fill(mask == 0, pad), "attention_mask": mask}


def logits(model, inputs, **more):
    with torch.no_grad():
        return model(**{k: v for k, v in inputs.items() if k != "labels"}, **more)[0]


def vectors(model, inputs):
    with torch.no_grad():
        return model.base_model(**inputs).last_hidden_state


def by_hand(hidden, mask, pooling):
    return torch.stack([BY_HAND[pooling](row[real.bool()]) for row, real in zip(hidden, mask, strict=True)])


@pytest.mark.parametrize("pooling", POOLED)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_head_reads_the_real_tokens(family, pooling):
    model, plain = set_pooling(build(family).eval(), pooling).model, build(family).eval()
    for side in MASKS:
        inputs = masked(model, side)
        expected = head(plain, by_hand(vectors(plain, inputs), inputs["attention_mask"], pooling))
        torch.testing.assert_close(logits(model, inputs), expected)
    without = {"input_ids": inputs["input_ids"]}
    every = torch.ones_like(inputs["attention_mask"])
    torch.testing.assert_close(logits(model, without), head(plain, by_hand(vectors(plain, without), every, pooling)))


@pytest.mark.parametrize("pooling", POOLED)
@pytest.mark.parametrize("family", FAMILIES)
def test_what_stands_in_the_padding_changes_nothing(family, pooling):
    model = set_pooling(build(family).eval(), pooling).model
    for side in ("right", "left"):
        inputs = masked(model, side)
        if family == "roberta":  # counts its positions by comparing ids with the padding id
            inputs["position_ids"] = torch.arange(2, 9).expand(4, -1)
        garbage = inputs | {"input_ids": inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, 33)}
        assert torch.equal(logits(model, inputs), logits(model, garbage))
    short = {name: tensor[2:3, -2:] for name, tensor in inputs.items() if name != "position_ids"}
    longer = {name: torch.cat([tensor, torch.zeros(1, 3, dtype=tensor.dtype)], 1) for name, tensor in short.items()}
    torch.testing.assert_close(logits(model, longer), logits(model, short))


@pytest.mark.parametrize("family", FAMILIES)
def test_embeddings_in_place_of_ids(family):
    for pooling in POOLED:
        model = set_pooling(build(family).eval(), pooling).model
        inputs = masked(model, "right")
        embedded = inputs | {"inputs_embeds": model.get_input_embeddings()(inputs["input_ids"]).detach()}
        del embedded["input_ids"]
        if family == "roberta":
            embedded["position_ids"] = inputs["position_ids"] = torch.arange(2, 9).expand(4, -1)
        torch.testing.assert_close(logits(model, embedded), logits(model, inputs))


@pytest.mark.parametrize("family", DECODERS)
def test_last_reads_the_end_of_a_text_that_is_the_padding_token(family):
    """Padding with the end-of-text token, which also ends each text: transformers' own head reads the token before."""
    model = build(family, pad_token_id=2).eval()
    inputs = masked(model, "right")
    ends = inputs["attention_mask"].sum(1) - 1
    inputs["input_ids"][torch.arange(4), ends] = 2
    expected = model.score(vectors(model, inputs)[torch.arange(4), ends])
    assert not torch.allclose(logits(model, inputs), expected)
    torch.testing.assert_close(logits(set_pooling(model, "last").model, inputs), expected)


@pytest.mark.parametrize("family", DECODERS)
def test_a_config_without_a_padding_id(family, tmp_path):
    model, other = build(family, pad_token_id=None).eval(), build(family).eval()
    set_pooling(model, "last")
    model.load_state_dict(other.state_dict())
    inputs = masked(other, "left")
    torch.testing.assert_close(logits(model, inputs), logits(set_pooling(other, "last").model, inputs))
    with pytest.raises(ValueError, match="batch_size"):
        model(**inputs, labels=torch.zeros(3, dtype=torch.long))
    assert model.config.pad_token_id is None
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["pad_token_id"] is None
    with pytest.raises(ValueError, match="no padding token"):
        logits(set_pooling(model, "native").model, inputs)


def test_keys_and_values_before_the_text_are_not_pooled():
    """The mask covers them too: a text in two parts, whose second is pooled as its own vectors say."""
    name = next(name for name in ("cache", "past_key_values") if name in signature(LlamaModel.forward).parameters)
    for pooling in POOLED:
        model = set_pooling(build("llama").eval(), pooling).model
        inputs = masked(model, "right")
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        cache, hidden = DynamicCache(config=model.config), vectors(build("llama").eval(), inputs)
        logits(model, {"input_ids": ids[:, :1], "attention_mask": mask[:, :1]}, **{name: cache}, use_cache=True)
        rest = logits(model, {"input_ids": ids[:, 1:], "attention_mask": mask}, **{name: cache})
        torch.testing.assert_close(rest, model.score(by_hand(hidden[:, 1:], mask[:, 1:], pooling)))


@pytest.mark.parametrize("family", FAMILIES)
def test_native_takes_it_back(family):
    model, plain = build(family, pad_token_id=1).eval(), build(family, pad_token_id=1).eval()
    inputs, before = batch(model), bits(model)
    for pooling in ("mean", "mean", "last", "native", "native"):
        assert set_pooling(model, pooling).model is model
        assert model.config.to_dict()[CONFIG_KEY] == ("native" if (family, pooling) == ("modernbert", "mean") else pooling)
    assert same(bits(model), before)
    assert torch.equal(logits(model, inputs), logits(plain, inputs))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in (model, model.base_model))


def test_a_copy_has_hooks_of_its_own():
    model = set_pooling(build(pad_token_id=None).eval(), "mean").model
    inputs = masked(model, "right")
    mean, twin = logits(model, inputs), copy.deepcopy(model)
    assert torch.equal(logits(twin, inputs), mean)
    set_pooling(twin, "native")
    assert not torch.equal(logits(twin, inputs), mean) and torch.equal(logits(model, inputs), mean)
    assert not twin._forward_pre_hooks and model._forward_pre_hooks


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_and_loaded(family, tmp_path):
    pooling = {"modernbert": "mean"}.get(family, POOLED[FAMILIES.index(family) % 4])
    model = set_pooling(build(family).eval(), pooling).model
    expected = logits(model, masked(model, "left"))
    model.save_pretrained(tmp_path / "ours")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "ours").eval()
    assert pooling_of(tmp_path / "ours") == ("native" if family == "modernbert" else pooling)
    set_pooling(loaded, pooling_of(tmp_path / "ours"))
    assert torch.equal(logits(loaded, masked(model, "left")), expected)
    set_pooling(loaded, "native").model.save_pretrained(tmp_path / "ours")
    assert pooling_of(tmp_path / "ours") == "native" and AutoConfig.from_pretrained(tmp_path / "ours").num_labels == 3


@pytest.mark.parametrize("family", FAMILIES)
def test_plain_transformers_reads_it(family, tmp_path):
    """With the few lines of code that lie beside the weights, and never without them."""
    model = set_pooling(build(family, pad_token_id=None if family in DECODERS else 1).eval(), "max").model
    inputs = masked(model, "left")
    save_portable(model, tmp_path)
    with pytest.raises(ValueError, match="trust_remote_code"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path, trust_remote_code=False)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path, trust_remote_code=True).eval()
    assert torch.equal(logits(plain, inputs), logits(model, inputs)) and same(bits(plain), bits(model))
    assert plain.config.model_type == PREFIX + model.config.model_type
    assert type(read_config(tmp_path)) is type(model.config) and pooling_of(tmp_path) == "max"


def test_an_unknown_recorded_pooling(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({CONFIG_KEY: "attention"}))
    with pytest.raises(ValueError, match=f"pooling_of: {CONFIG_KEY} of .* must be one of native, last, .*, got 'attention'"):
        pooling_of(tmp_path)


@pytest.mark.parametrize("pooling", POOLED)
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_flow_in_a_patched_model(family, pooling):
    """The order of patching and pooling does not matter."""
    weights = []
    for first in ("patch", "pool"):
        model = build(family)
        if first == "pool":
            set_pooling(model, pooling)
        handle = clm.patch(model, select(model))
        if first == "patch":
            set_pooling(model, pooling)
        train(model, clm.SparseAdamW(model.parameters(), lr=1e-2))
        handle.restore()
        weights.append(bits(model))
    assert same(*weights) and not same(weights[0], bits(build(family)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("integer", [torch.int64, torch.bool, torch.float32], ids=str)
def test_pool(dtype, integer):
    """300 tokens, more than bf16 can count, NaN where there is padding, and a text without a token."""
    hidden = torch.randn(3, 300, 5, dtype=torch.float64).to(dtype)
    lengths = [300, 261, 0]
    mask = torch.stack([torch.arange(300) < length for length in lengths]).to(integer)
    close = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2**-10, torch.bfloat16: 2**-7}[dtype]
    hidden[mask == 0] = torch.nan
    for pooling in POOLED:
        expected = torch.cat([by_hand(hidden[:2].double(), mask[:2], pooling), torch.zeros(1, 5)])
        pooled = pool(hidden, mask, pooling)
        torch.testing.assert_close(pooled.double(), expected, rtol=close if pooling == "mean" else 0, atol=1e-7)
        assert pooled.dtype == dtype
        assert torch.equal(pool(hidden[:1], None, pooling), pooled[:1])


REFUSED = {
    "BertForTokenClassification": lambda: build(task="token"),
    "LlamaForTokenClassification": lambda: build("llama", "token"),
    "GPT2LMHeadModel": lambda: build("gpt2", "causal"),
    "BertModel": lambda: build().bert,
    "T5ForSequenceClassification": lambda: T5ForSequenceClassification(
        T5Config(vocab_size=9, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_models_that_read_no_text_vector_are_refused_and_left_alone(name):
    model = REFUSED[name]()
    config = model.config.to_dict()
    with pytest.raises(ValueError, match=f"set_pooling: model must be a sequence classifier of texts.* 'mean', got {name}"):
        set_pooling(model, "mean")
    assert model.config.to_dict() == config


@pytest.mark.parametrize("shape", [(4, 6), (4, 8), (1, 7), (4, 1, 7, 7), "dict"])
def test_masks_that_do_not_say_which_tokens_are_real(shape):
    model = set_pooling(build("llama").eval(), "mean").model
    mask = {"full_attention": None} if shape == "dict" else torch.ones(shape, dtype=torch.long)
    hidden = torch.zeros(4, 7, 32)
    model.model.forward = lambda **inputs: type("Output", (), {"last_hidden_state": hidden})()
    with pytest.raises(ValueError, match=r"attention_mask must be of shape \(4, 7\), .*, got (dict|\()"):
        model.model(input_ids=torch.ones(4, 7, dtype=torch.long), attention_mask=mask)


def test_outputs_in_a_tuple_are_refused():
    model = set_pooling(build("deberta").eval(), "mean").model
    with pytest.raises(ValueError, match="return_dict must be True, got outputs of DebertaV2Model in a tuple"):
        logits(model, masked(model, "right"), return_dict=False)


def test_unknown_pooling():
    with pytest.raises(ValueError, match="pooling must be one of native, last, mean, max, cls, got 'first'"):
        set_pooling(build(), "first")


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("mean_tokens", "mean"), ("max_tokens", "max"), ("lasttoken", "last"), ("cls_token", "native")],
)
def test_pooling_of_sentence_transformers_files(tmp_path, mode, expected):
    assert pooling_of(tmp_path) == "native"
    (tmp_path / "1_Pooling").mkdir()
    modes = dict.fromkeys(["pooling_mode_mean_tokens", "pooling_mode_max_tokens", "pooling_mode_lasttoken"], False)
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(modes | {f"pooling_mode_{mode}": True}))
    assert pooling_of(tmp_path) == expected


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("mean", "mean"), ("max", "max"), ("lasttoken", "last"), ("cls", "native"), (["mean", "max"], "native")],
)
def test_pooling_of_what_sentence_transformers_writes_today(tmp_path, mode, expected):
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"embedding_dimension": 8, "pooling_mode": mode}))
    assert pooling_of(tmp_path) == expected


def test_pooling_of_a_folder_that_sentence_transformers_has_saved(tmp_path):
    library = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    encoder = library.SentenceTransformer(save_model(tmp_path / "encoder"), device="cpu")  # puts the mean on it
    encoder.save(str(tmp_path / "saved"))
    assert pooling_of(tmp_path / "encoder") == "native" and pooling_of(tmp_path / "saved") == "mean"


@pytest.mark.parametrize("family", ["bert", "modernbert", "llama"])
@pytest.mark.parametrize(("trained", "base"), [("mean", "native"), ("native", "mean"), ("max", "mean")])
def test_a_delta_brings_along_what_the_head_read(family, trained, base, tmp_path):
    model = set_pooling(build(family), trained).model
    handle = clm.patch(model, select(model, "rows"))
    train(model, clm.SparseAdamW(model.parameters(), lr=1e-2), 2)
    handle.delta().save(tmp_path / "delta.safetensors")
    other, inputs = set_pooling(build(family), base).model, batch(model)
    before = logits(other, inputs)
    with clm.Delta.load(tmp_path / "delta.safetensors").applied(other):
        assert current_pooling(other) == trained
        assert torch.equal(logits(other, inputs), logits(model, inputs))
    assert current_pooling(other) == base
    assert torch.equal(logits(other, inputs), before)


def test_deltas_that_pool_otherwise_do_not_stack():
    deltas = []
    for layer, pooling in enumerate(("mean", "max")):
        model = set_pooling(build(), pooling).model
        deltas.append(clm.patch(model, select(model, "rows", where=f"layer.{layer}"), head=False).delta())
    first, second = deltas
    base = build()
    with first.applied(base):
        with pytest.raises(ValueError, match="the head must pool max as in training, got mean of the delta"):
            second.apply(base)
        assert current_pooling(base) == "mean"
    assert current_pooling(base) == "native" and current_pooling(build(task="token")) is None
