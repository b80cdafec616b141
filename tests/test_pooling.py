"""Mean pooling of sequence classifiers: right over the real tokens alone, recorded, and taken back."""

import copy

import pytest
import torch
from models import batch, bits, build, same, select, train
from transformers import AutoConfig, AutoModelForSequenceClassification, T5Config, T5ForSequenceClassification

import clm_kernels as clm
from clm_kernels.pooling import mean_pool, pooling_of, set_pooling

HOOKED = ("bert", "minilm", "roberta", "distilbert", "deberta")
ENCODERS = (*HOOKED, "modernbert")


def head(model, pooled):
    """Each family's classifier on vectors (B, H); of BERT's, the pooler is left out, as sentence-transformers does."""
    kind = model.config.model_type
    if kind == "bert":
        return model.classifier(pooled)
    if kind == "roberta":
        return model.classifier(pooled[:, None])
    if kind == "distilbert":
        return model.classifier(model.pre_classifier(pooled).relu())
    if kind == "deberta-v2":
        return model.classifier(model.pooler(pooled[:, None]))
    return model.classifier(model.drop(model.head(pooled)))


def logits(model, inputs, **more):
    return model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], **more)[0]


@pytest.mark.parametrize("family", ENCODERS)
def test_the_head_reads_the_mean_of_the_real_tokens(family):
    model = set_pooling(build(family).eval(), "mean")
    inputs = batch(model)
    expected = build(family).eval()
    hidden = expected.base_model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state
    lengths = inputs["attention_mask"].sum(1).tolist()
    pooled = torch.stack([row[:length].mean(0) for row, length in zip(hidden, lengths, strict=True)])
    torch.testing.assert_close(logits(model, inputs), head(expected, pooled))
    if family != "deberta":  # its base then returns a tuple, which the hook does not take
        torch.testing.assert_close(logits(model, inputs, return_dict=False), head(expected, pooled))
    assert not torch.allclose(logits(model, inputs), logits(expected, inputs))


@pytest.mark.parametrize("family", ENCODERS)
def test_padding_never_changes_a_result(family):
    model = set_pooling(build(family).eval(), "mean")
    inputs = batch(model, size=1, length=6)
    short = {name: inputs[name][:, :4] for name in ("input_ids", "attention_mask")}
    garbage = copy.deepcopy(inputs)
    garbage["input_ids"][:, 4:] = 33
    torch.testing.assert_close(logits(model, inputs), logits(model, short))
    torch.testing.assert_close(logits(model, inputs), logits(model, garbage))


@pytest.mark.parametrize("family", ENCODERS)
def test_native_takes_it_back(family):
    model, plain = build(family).eval(), build(family).eval()
    inputs, before = batch(model), bits(model)
    for pooling in ("mean", "mean", "native", "native"):
        assert set_pooling(model, pooling) is model
    assert same(bits(model), before)
    assert torch.equal(logits(model, inputs), logits(plain, inputs))
    assert not model.base_model._forward_hooks


def test_a_copy_has_a_hook_of_its_own():
    model = set_pooling(build().eval(), "mean")
    inputs, twin = batch(model), copy.deepcopy(model)
    mean = logits(model, inputs)
    assert torch.equal(logits(twin, inputs), mean)
    set_pooling(twin, "native")
    assert not torch.equal(logits(twin, inputs), mean) and torch.equal(logits(model, inputs), mean)


@pytest.mark.parametrize("family", ENCODERS)
def test_saved_and_loaded(family, tmp_path):
    model = set_pooling(build(family).eval(), "mean")
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    if family in HOOKED:
        assert pooling_of(tmp_path) == "mean"
        set_pooling(loaded, pooling_of(tmp_path))
    assert torch.equal(logits(loaded, batch(model)), logits(model, batch(model)))
    set_pooling(loaded, "native").save_pretrained(tmp_path)
    assert pooling_of(tmp_path) == "native" and AutoConfig.from_pretrained(tmp_path).num_labels == 3


@pytest.mark.parametrize("family", ENCODERS)
def test_gradients_flow_in_a_patched_model(family):
    """The order of patching and pooling does not matter."""
    weights = []
    for first in ("patch", "pool"):
        model = build(family)
        if first == "pool":
            set_pooling(model, "mean")
        handle = clm.patch(model, select(model))
        if first == "patch":
            set_pooling(model, "mean")
        train(model, clm.SparseAdamW(model.parameters(), lr=1e-2))
        handle.restore()
        weights.append(bits(model))
    assert same(*weights) and not same(weights[0], bits(build(family)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("integer", [torch.int64, torch.bool, torch.float32], ids=str)
def test_mean_pool(dtype, integer):
    """300 tokens, more than bf16 can count, and NaN where there is padding."""
    hidden = torch.randn(3, 300, 5, dtype=torch.float64).to(dtype)
    lengths = [300, 261, 0]
    mask = torch.stack([torch.arange(300) < length for length in lengths]).to(integer)
    expected = torch.stack(
        [row[:length].double().mean(0) if length else torch.zeros(5) for row, length in zip(hidden, lengths, strict=True)]
    )
    hidden[mask == 0] = torch.nan
    close = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2**-10, torch.bfloat16: 2**-7}[dtype]
    torch.testing.assert_close(mean_pool(hidden, mask).double(), expected.double(), rtol=close, atol=1e-7)
    assert mean_pool(hidden, mask).dtype == dtype
    torch.testing.assert_close(mean_pool(hidden[:1], None), hidden[:1].mean(1))


REFUSED = {
    "BertForTokenClassification": lambda: build(task="token"),
    "LlamaForSequenceClassification": lambda: build("llama"),
    "GPT2ForSequenceClassification": lambda: build("gpt2"),
    "GPT2LMHeadModel": lambda: build("gpt2", "causal"),
    "BertModel": lambda: build().bert,
    "ModernBertForTokenClassification": lambda: build("modernbert", "token"),
    "T5ForSequenceClassification": lambda: T5ForSequenceClassification(
        T5Config(vocab_size=9, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_models_whose_head_reads_elsewhere_are_refused_and_left_alone(name):
    model = REFUSED[name]()
    config = model.config.to_dict()
    with pytest.raises(ValueError, match=f"mean needs an encoder with a sequence classification head, got {name}"):
        set_pooling(model, "mean")
    assert model.config.to_dict() == config


def test_what_stands_before_the_text_is_no_part_of_the_mean():
    """Prefix tuning's mask covers its keys and values too, which have no hidden states."""
    hidden, mask = torch.randn(2, 4, 8), torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    longer = torch.cat([torch.ones(2, 3, dtype=mask.dtype), mask], 1)
    assert torch.equal(mean_pool(hidden, longer), mean_pool(hidden, mask))


def test_unknown_pooling():
    with pytest.raises(ValueError, match="pooling must be one of native, mean, got 'max'"):
        set_pooling(build(), "max")


@pytest.mark.parametrize(("mean", "expected"), [(True, "mean"), (False, "native")])
def test_pooling_of_sentence_transformers_files(tmp_path, mean, expected):
    assert pooling_of(tmp_path) == "native"
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(f'{{"pooling_mode_mean_tokens": {str(mean).lower()}}}')
    assert pooling_of(tmp_path) == expected
