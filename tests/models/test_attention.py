"""Decoders made bidirectional: which token sees which, in which layers, whatever stands in the padding; and back again."""

import copy
import gc
import inspect
import io
from collections import defaultdict

import pytest
import torch
import transformers as tf
from models import CONFIGS, bits, build, same, select
from tiny_decoders import FAMILIES, LAYERS, LENGTH, WINDOW, decoder, states, text
from torch import nn
from transformers.integrations import flash_attention
from transformers.modeling_flash_attention_utils import _process_flash_attention_kwargs
from transformers.models.gptj.modeling_gptj import GPTJAttention
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

import clm_kernels as clm
from clm_kernels.models import attention as decoder_module
from clm_kernels.models.attention import CONFIG_KEY, mirrored
from clm_kernels.recipe import Recipe

if "kwargs" in inspect.signature(GPTJAttention.forward).parameters:  # since transformers 5.24, by the mask that it is given
    FAMILIES["gptj"] = CONFIGS["gptj"]
NARROW = {"qwen2": {2, 3}, "mistral": {0, 1, 2, 3}, "gemma3": {0, 2}}  # layers with a sliding window
PLAIN = [family for family in FAMILIES if family not in NARROW]
RANGES = {"all": range(4), "upper half": range(2, 4), (1, 3): range(1, 3), range(1): range(1)}

every_family = pytest.mark.parametrize("family", FAMILIES)
either_attention = pytest.mark.parametrize("attention", ["eager", "sdpa"])


def of_tokens(model, inputs):
    """States of what is no padding, which nothing else reads."""
    found, mask = states(model, inputs), inputs["attention_mask"]
    return found if mask is None else found[mask.bool()]


def another(ids, places):
    """The ids with another token wherever `places` is true."""
    return torch.where(places, (ids + 17) % 60 + 3, ids)


def sees(family, layer, both):
    """(LENGTH, LENGTH) of which query should see which key, padding aside."""
    distance = torch.arange(LENGTH)[:, None] - torch.arange(LENGTH)
    reach = WINDOW if layer in NARROW.get(family, ()) else LENGTH
    return (distance.abs() < reach) & ((distance >= 0) | both)


@every_family
@pytest.mark.parametrize("layers", RANGES, ids=str)
def test_who_sees_whom_in_each_layer(family, layers):
    """Exactly the pretrained reach to both sides in the chosen layers, exactly the pretrained one in the others."""
    model, inputs = decoder(family), text()
    assert clm.bidirectional(model, layers).model is model
    real = inputs["attention_mask"].bool()
    for layer, weights in enumerate(model(**inputs, output_attentions=True).attentions):
        expected = sees(family, layer, layer in RANGES[layers]) & real[:, None, :]
        for query, key, seen in zip(real, weights, expected, strict=True):
            assert torch.equal(key[:, query] > 0, seen[query].expand(key.shape[0], -1, -1))
    assert clm.bidirectional_layers(model) == RANGES[layers]


@every_family
@either_attention
@pytest.mark.parametrize("layers", ["all", (1, 3)], ids=str)
@pytest.mark.parametrize("padded", [True, False])
def test_right_context_reaches_left_from_the_lowest_chosen_layer(family, attention, layers, padded):
    model, inputs = decoder(family, attention), text(size=1)
    if not padded:
        inputs["attention_mask"][:] = 1
    last = LENGTH - 4 if padded else LENGTH - 1
    other = inputs | {"input_ids": another(inputs["input_ids"], torch.arange(LENGTH) == last)}
    lowest = RANGES[layers].start

    def reached():
        pairs = zip(*(model(**given, output_hidden_states=True).hidden_states for given in (inputs, other)), strict=True)
        return [not torch.equal(a[:, last - 1], b[:, last - 1]) for a, b in pairs]

    assert reached() == [False] * (LAYERS + 1)
    clm.bidirectional(model, layers)
    assert reached() == [False] * (lowest + 1) + [True] * (LAYERS - lowest)


@every_family
@either_attention
@pytest.mark.parametrize("layers", ["all", "upper half"])
def test_padding_has_no_influence_at_all(family, attention, layers):
    """Left and right, bit for bit."""
    model, inputs = clm.bidirectional(decoder(family, attention), layers).model, text()
    real = inputs["attention_mask"].bool()
    found, changed = states(model, inputs), states(model, inputs, input_ids=another(inputs["input_ids"], ~real))
    assert torch.equal(found[real], changed[real])
    assert not torch.equal(found[~real], changed[~real])  # another token stood there


@every_family
@pytest.mark.parametrize("layers", ["all", (1, 3)], ids=str)
def test_eager_and_sdpa_agree(family, layers):
    """With padding and without, where sdpa is given no mask."""
    eager, sdpa = (clm.bidirectional(decoder(family, attention), layers).model for attention in ("eager", "sdpa"))
    for inputs in (text(), text() | {"attention_mask": None}):
        torch.testing.assert_close(of_tokens(sdpa, inputs), of_tokens(eager, inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_attention_is_a_softmax_over_all_real_tokens(family):
    """Computed by hand, without any mask of transformers."""
    model, inputs, seen = clm.bidirectional(decoder(family)).model, text(), {}
    layer = (model.layers if family == "llama" else model.decoder.layers)[1].self_attn
    layer.register_forward_hook(lambda module, args, kwargs, out: seen.update(kwargs, out=out[0]), with_kwargs=True)
    states(model, inputs)
    x = seen["hidden_states"]
    query, key, value = (
        project(x).view(*x.shape[:2], -1, 8).transpose(1, 2) for project in (layer.q_proj, layer.k_proj, layer.v_proj)
    )
    if family == "llama":
        query, key = apply_rotary_pos_emb(query, key, *seen["position_embeddings"])
        key, value = (tensor.repeat_interleave(2, 1) for tensor in (key, value))
    scores = (query @ key.mT / 8**0.5).exp() * inputs["attention_mask"][:, None, None, :]
    out = (scores / scores.sum(-1, keepdim=True) @ value).transpose(1, 2).reshape(x.shape)
    out = (layer.o_proj if family == "llama" else layer.out_proj)(out)
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(seen["out"][real], out[real], rtol=1e-4, atol=1e-5)


def flash(query, key, value, padding, query_length, is_causal, softmax_scale, sliding_window, **kwargs):
    """What FlashAttention computes, of ``(B, T, heads, head_dim)``, given what transformers would tell it."""
    has = defaultdict(bool, window_size=True)
    told = _process_flash_attention_kwargs(
        query_length, key.shape[1], is_causal, sliding_window=sliding_window, supports_mapping=has
    )
    distance = torch.arange(key.shape[1]) - torch.arange(query_length)[:, None]
    left, right = told.get("window_size", (LENGTH, LENGTH))
    seen = (distance >= -left) & (distance <= (0 if told["causal"] else right))
    seen = seen if padding is None else seen & padding[:, None, None, :].bool()
    query, key, value = (tensor.transpose(1, 2) for tensor in (query, key, value))
    return nn.functional.scaled_dot_product_attention(
        query, key, value, seen, scale=softmax_scale, enable_gqa=True
    ).transpose(1, 2)  # fmt: skip


@every_family
@pytest.mark.parametrize("layers", ["all", (1, 3)], ids=str)
def test_flash_attention_is_told_the_same(family, layers, monkeypatch):
    """With its kernel replaced by what it computes, as it runs on a GPU only."""
    monkeypatch.setattr(flash_attention, "_flash_attention_forward", flash)
    monkeypatch.setattr(flash_attention, "get_target_dtype", lambda query, module: None)  # float32 will do here
    eager, other = (clm.bidirectional(decoder(family), layers).model for _ in range(2))
    other.config._attn_implementation = "flash_attention_2"
    for inputs in (text(), text() | {"attention_mask": None}):
        torch.testing.assert_close(of_tokens(other, inputs), of_tokens(eager, inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])  # OPT's mask knows no position ids
@pytest.mark.parametrize("layers", ["all", "upper half"])
def test_packed_texts_stay_apart(family, layers):
    """Texts in a row without padding, told apart by their position ids."""
    model = clm.bidirectional(decoder(family, "sdpa"), layers).model
    texts = [torch.tensor([[5, 6, 7, 8]]), torch.tensor([[9, 10, 11]])]
    apart = torch.cat([states(model, {"input_ids": ids}) for ids in texts], 1)
    packed = {"input_ids": torch.cat(texts, 1), "position_ids": torch.tensor([[0, 1, 2, 3, 0, 1, 2]])}
    torch.testing.assert_close(states(model, packed), apart, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bias", [False, True])
def test_mirrored_mask(bias):
    """Keys before the text (prefix tuning) are seen as they were; a mask without a direction is given back."""
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 0]]).bool()[None, None]  # a prefix of one, the last token padding
    expected = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 0]]).bool()[None, None]
    if bias:
        mask, expected = (torch.zeros(given.shape).masked_fill(~given, torch.finfo().min) for given in (mask, expected))
    before = mask.clone()
    assert torch.equal(mirrored(mask), expected) and torch.equal(mirrored(expected), expected) and torch.equal(mask, before)
    assert mirrored(None) is None and mirrored(flat := torch.ones(2, 3)) is flat


@every_family
@either_attention
def test_back_to_causal_bit_for_bit(family, attention):
    model, inputs = decoder(family, attention), text()
    before, config, weights = states(model, inputs), model.config.to_dict(), bits(model)
    hooks = [len(module._forward_pre_hooks) for module in model.modules()]
    clm.bidirectional(model, "upper half")
    upper = states(model, inputs)
    clm.bidirectional(model)
    everywhere = states(model, inputs)
    clm.bidirectional(model, (2, 4))  # replaces the choice before
    assert torch.equal(states(model, inputs), upper) and not torch.equal(upper, everywhere) and not torch.equal(upper, before)
    for _ in range(2):
        assert clm.causal(model).model is model and torch.equal(states(model, inputs), before)
    assert model.config.to_dict() == config and same(bits(model), weights) and not clm.bidirectional_layers(model)
    assert [len(module._forward_pre_hooks) for module in model.modules()] == hooks


@every_family
@pytest.mark.parametrize("layers", ["all", "upper half"])
def test_saved_and_restored(family, layers, tmp_path):
    model, inputs = clm.bidirectional(decoder(family, "sdpa"), layers).model, text()
    model.save_pretrained(tmp_path)
    loaded = tf.AutoModel.from_pretrained(tmp_path)
    # transformers alone knows "all" only, and a window's reach is one more to it
    assert torch.equal(of_tokens(loaded, inputs), of_tokens(model, inputs)) == (layers == "all" and family in PLAIN)
    assert clm.restore_attention(loaded).model is loaded and torch.equal(states(loaded, inputs), states(model, inputs))
    assert clm.bidirectional_layers(loaded) == RANGES[layers]
    assert torch.equal(states(clm.causal(loaded).model, inputs), states(clm.causal(model).model, inputs))
    loaded.save_pretrained(tmp_path)
    again = clm.restore_attention(tf.AutoModel.from_pretrained(tmp_path)).model
    assert torch.equal(states(again, inputs), states(model, inputs)) and not hasattr(again.config, CONFIG_KEY)


@pytest.mark.parametrize(("family", "masks"), [("llama", 1), ("gemma3", 2)])
def test_layers_share_a_mask_and_let_go_of_it(family, masks, monkeypatch):
    made, own = [], decoder_module.mirrored
    monkeypatch.setattr(decoder_module, "mirrored", lambda mask: made.append(own(mask)) or made[-1])
    model, held = clm.bidirectional(decoder(family, "sdpa")).model, len(decoder_module._mirrored)
    states(model, text())
    assert len(made) == masks and model.config.num_hidden_layers > masks
    gc.collect()
    assert len(decoder_module._mirrored) == held


def test_a_mask_that_is_written_to_is_mirrored_anew():
    model, inputs = clm.bidirectional(decoder("llama", "sdpa")).model, text()
    length = inputs["input_ids"].shape[1]
    mask = torch.ones(3, 1, length, length, dtype=torch.bool).tril()
    before = states(model, inputs, attention_mask=mask)
    mask[..., 1:, 0] = False  # the first token is hidden from all others
    changed = states(model, inputs, attention_mask=mask)
    assert not torch.equal(changed, before)
    assert torch.equal(changed, states(model, inputs, attention_mask=mask.clone()))
    with torch.inference_mode():
        assert torch.equal(states(model, inputs, attention_mask=mask.clone()), changed)


def test_a_delta_knows_a_base_whose_config_takes_the_mask_off(tmp_path):
    base = build("llama")
    clm.bidirectional(base).model.save_pretrained(tmp_path)
    loaded = tf.AutoModelForSequenceClassification.from_pretrained(tmp_path)  # bidirectional without hooks
    assert clm.bidirectional_layers(loaded) == range(loaded.config.num_hidden_layers)
    delta = clm.patch(loaded, select(loaded, "rows")).delta()
    assert delta.recipe.bidirectional == (0, loaded.config.num_hidden_layers)
    with delta.applied(clm.restore_attention(tf.AutoModelForSequenceClassification.from_pretrained(tmp_path)).model):
        pass
    trained_causal = clm.patch(clm.causal(base).model, select(base, "rows")).delta()
    with pytest.raises(ValueError, match="must attend to both sides in no layer as in training, got 0 to"):
        trained_causal.apply(tf.AutoModelForSequenceClassification.from_pretrained(tmp_path))


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_a_copy_is_made_causal_on_its_own(how):
    model, inputs = clm.bidirectional(decoder("qwen3"), (1, 3)).model, text()
    if how == "deepcopy":
        twin = copy.deepcopy(model)
    else:
        torch.save(model, file := io.BytesIO())
        file.seek(0)
        twin = torch.load(file, weights_only=False)
    expected = states(model, inputs)
    assert torch.equal(states(twin, inputs), expected)
    assert not torch.equal(states(clm.causal(twin).model, inputs), expected) and torch.equal(states(model, inputs), expected)


def gradients(model, inputs):
    """Loss and gradients of everything that is trained."""
    model.zero_grad()
    loss = model(**inputs, labels=torch.tensor([0, 1, 2])).loss
    loss.backward()
    return {"loss": loss.detach()} | {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("reentrant", [False, True])
@every_family
def test_gradient_checkpointing(family, reentrant):
    model = build(family, num_hidden_layers=LAYERS) if family != "gpt2" else build(family, n_layer=LAYERS)
    causal = gradients(model, text())
    clm.bidirectional(model, (1, 3))
    expected = gradients(model, text())
    assert not same(expected, causal)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    assert same(gradients(model, text()), expected)


def test_compile_without_a_graph_break():
    model = clm.bidirectional(build("llama"), (1, 2)).model
    expected = gradients(model, text())
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    got = {name.removeprefix("_orig_mod."): value for name, value in gradients(compiled, text()).items()}
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("patch_first", [False, True])
@every_family
def test_together_with_patch_and_delta(family, patch_first, tmp_path):
    """Training sees to both sides, and so does the base wherever the delta is applied, and only there."""
    model = build(family, num_hidden_layers=2)
    make = [lambda: clm.patch(model, select(model), biases=True), lambda: clm.bidirectional(model, "upper half")]
    handle = [step() for step in (make if patch_first else make[::-1])][0 if patch_first else 1]
    dense = clm.bidirectional(build(family, num_hidden_layers=2), "upper half").model
    expected, got = gradients(dense, text()), gradients(model, text())
    assert torch.equal(got["loss"], expected["loss"])
    for name, values in handle.values.items():
        torch.testing.assert_close(values.grad, clm.ops.gather(expected[name], values.entries), rtol=1e-4, atol=1e-6)

    clm.SparseAdamW(model.parameters(), lr=1e-2).step()
    handle.restore()
    handle.delta(recipe=Recipe(details={"lr": 1e-2})).save(tmp_path / "task.safetensors")
    delta = clm.Delta.load(tmp_path / "task.safetensors")
    assert (delta.recipe.details, delta.recipe.bidirectional, delta.recipe.pooling) == ({"lr": 1e-2}, (1, 2), "native")
    base = build(family, num_hidden_layers=2)
    before = base(**text()).logits
    with delta.applied(base):
        assert torch.equal(base(**text()).logits, model(**text()).logits)
    assert torch.equal(base(**text()).logits, before) and not clm.bidirectional_layers(base)
    with delta.applied(clm.bidirectional(base, (1, 2)).model):
        assert torch.equal(base(**text()).logits, model(**text()).logits)
    assert clm.bidirectional_layers(base) == range(1, 2)  # not the delta's to take back
    with pytest.raises(ValueError, match="attend to both sides in layers 1 to 1 as in training, got 0 to 1"):
        delta.apply(clm.bidirectional(base).model)
    delta.merge(clm.causal(base).model).save_pretrained(tmp_path)
    merged = clm.restore_attention(tf.AutoModelForSequenceClassification.from_pretrained(tmp_path)).model
    assert torch.equal(merged(**text()).logits, model.eval()(**text()).logits)


def neighbours(seed, size=32, length=10):
    """Texts padded on either side, and the parity of each token's right neighbour."""
    ids = torch.randint(3, 13, (size, length), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(ids)
    mask[::3, -3:], mask[1::3, :2] = 0, 0
    following = nn.functional.pad(mask[:, 1:], (0, 1))
    labels = nn.functional.pad(ids[:, 1:] % 2, (0, 1)).masked_fill(mask * following == 0, -100)
    return {"input_ids": ids, "attention_mask": mask}, labels


@pytest.mark.parametrize(("layers", "low", "high"), [(None, 0.45, 0.55), ("all", 0.99, 1)])
def test_a_label_that_depends_on_the_right_neighbour(layers, low, high):
    """Chance with a causal mask, learnt without."""
    model = build("llama", "token", num_labels=2)
    if layers:
        clm.bidirectional(model, layers)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(100):
        inputs, labels = neighbours(step)
        nn.functional.cross_entropy(model(**inputs).logits.flatten(0, 1), labels.flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
    inputs, labels = neighbours(1000, size=512)
    with torch.no_grad():
        right = model(**inputs).logits.argmax(-1) == labels
    assert low <= right[labels >= 0].float().mean() <= high
