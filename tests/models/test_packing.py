"""`pack_batches`: texts share rows, and nothing of it is to be seen: neither in what comes out, nor from one text in another."""

import models
import pytest
import torch
from packed_models import FLOAT32, LENGTHS, NO_TAGS, assert_alike, batch, every_family, hidden, outcome, tiny
from tolerances import assert_close

import clm_kernels as clm
from clm_kernels.models.attention import restore_attention
from clm_kernels.models.packing import PackedTokens
from clm_kernels.models.pooled_head import is_cache
from clm_kernels.models.pooling import set_pooling
from clm_kernels.models.recomputing import checkpoint_layers
from clm_kernels.models.structure import base_model, input_embedding, layers_of


@every_family
@pytest.mark.parametrize("task", ["sequence", "token"])
def test_packed_equals_padded_in_every_family(family, attention, task):
    if task == "token" and family in NO_TAGS:
        pytest.skip("transformers has no token classification for it")
    model = tiny(family, attention, task)
    inputs = batch(model, task=task)
    real = inputs["attention_mask"].bool()
    dtype = torch.float32 if family in FLOAT32 else torch.float64
    states, expected = hidden(model, inputs), outcome(model, inputs)
    with clm.pack_batches(model) as packing:
        found_states, found = hidden(model, inputs), outcome(model, inputs)
        assert packing.tokens.real == 2 * 29 and packing.tokens.padded == 2 * 66 and packing.tokens.run <= 2 * 32
    assert_close(found_states[real], states[real], dtype)
    assert found_states.shape == states.shape and not found_states[~real].any()
    assert_alike(found, expected, slice(None) if task == "sequence" else real, dtype)
    assert all(torch.equal(a, b) for a, b in zip(outcome(model, inputs)[2].values(), expected[2].values(), strict=True))


@every_family
def test_nothing_leaks_from_text_to_text(family, attention):
    """Of each text's states, the gradient by every other text's embeddings is zero, and not merely small."""
    model = tiny(family, attention)
    inputs = batch(model)
    weight = input_embedding(model)[1].weight
    with clm.pack_batches(model) as packing:
        states = hidden(model, inputs)
        assert packing.tokens.run < packing.tokens.padded
        for i, length in enumerate(LENGTHS):
            direction = torch.randn(length, states.shape[-1], dtype=states.dtype)
            gradient = torch.autograd.grad((states[i, :length] * direction).sum(), weight, retain_graph=True)[0]
            own = inputs["input_ids"][i, :length]
            assert gradient[own].any(1).all()
            assert not gradient.index_fill(0, own, 0).any()


@every_family
def test_another_text_changes_no_bit_of_the_others(family, attention):
    model = tiny(family, attention)
    inputs = batch(model)
    other = {**inputs, "input_ids": inputs["input_ids"].clone()}
    other["input_ids"][1, :11] = 63
    with clm.pack_batches(model), torch.no_grad():
        before, after = hidden(model, inputs), hidden(model, other)
    stay = [0, 2, 3, 4, 5]
    assert torch.equal(before[stay], after[stay]) and not torch.equal(before[1], after[1])


@pytest.mark.parametrize("family", ["bert", "roberta", "mpnet", "distilbert", "llama", "gpt2"])
@pytest.mark.parametrize("pooling", ["native", "mean", "max", "last", "cls"])
@pytest.mark.parametrize("first", ["pooling", "packing"])
def test_the_head_reads_what_it_read(family, pooling, first):
    model = tiny(family, "eager")
    inputs = batch(model)
    with set_pooling(model, pooling):
        expected = outcome(model, inputs)
    steps = [lambda: set_pooling(model, pooling), lambda: clm.pack_batches(model)]
    for step in steps if first == "pooling" else steps[::-1]:
        step()
    assert_alike(outcome(model, inputs), expected, dtype=torch.float32 if family in FLOAT32 else torch.float64)


def test_berts_pooler_runs_once_and_over_texts():
    model, ran = tiny(), []
    model.bert.pooler.dense.register_forward_hook(lambda module, args, output: ran.append(len(output)))
    with clm.pack_batches(model) as packing:
        model(**batch(model))
        assert packing.tokens.run < packing.tokens.padded
    assert ran == [len(LENGTHS)]


class TestBothSides:
    @pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3", "gpt2"])
    @pytest.mark.parametrize("attention", ["eager", "sdpa"])
    @pytest.mark.parametrize("layers", ["all", "upper half", (0, 1)], ids=str)
    def test_bidirectional_layers(self, family, attention, layers):
        model = tiny(family, attention)
        inputs = batch(model)
        causal = hidden(model, inputs)
        clm.bidirectional(model, layers)
        expected, real = hidden(model, inputs), inputs["attention_mask"].bool()
        assert not torch.allclose(causal[real], expected[real])
        weight = input_embedding(model)[1].weight
        with clm.pack_batches(model):
            found = hidden(model, inputs)
            assert_close(found[real], expected[real], torch.float32)
            gradient = torch.autograd.grad(found[3].sum(), weight)[0]
            assert not gradient.index_fill(0, inputs["input_ids"][3, :7], 0).any()

    def test_as_the_config_alone_says(self):
        """As transformers reads the checkpoint of a decoder that was made bidirectional throughout."""
        model = tiny("llama", is_causal=False)
        inputs = batch(model)
        real, expected = inputs["attention_mask"].bool(), hidden(model, inputs)
        with clm.pack_batches(model):
            assert_close(hidden(model, inputs)[real], expected[real], torch.float32)
        model.config.clm_bidirectional = [0, 2]
        with clm.pack_batches(model):
            assert_close(hidden(model, inputs)[real], expected[real], torch.float32)
        with restore_attention(model), clm.pack_batches(model):
            assert_close(hidden(model, inputs)[real], expected[real], torch.float32)
        with clm.causal(model):
            assert not torch.allclose(hidden(model, inputs)[real], expected[real])

    def test_gemma_that_was_made_so(self):
        model = tiny("gemma3", use_bidirectional_attention=True)
        inputs = batch(model, (2, 8, 3, 1))
        assert model.config.sliding_window == 9  # transformers halves it
        real, expected = inputs["attention_mask"].bool(), hidden(model, inputs)
        with clm.pack_batches(model) as packing:
            assert_close(hidden(model, inputs)[real], expected[real], torch.float32)
            assert packing.tokens.run < packing.tokens.padded


@pytest.mark.parametrize("family", ["mistral", "gemma3"])
@pytest.mark.parametrize(("window", "packed"), [(10, False), (11, True)])
def test_texts_beyond_a_sliding_window_run_as_they_are(family, window, packed):
    model = tiny(family, sliding_window=window)
    inputs = batch(model)
    real, expected = inputs["attention_mask"].bool(), hidden(model, inputs)
    with clm.pack_batches(model) as packing:
        assert_close(hidden(model, inputs)[real], expected[real], torch.float32)
        assert (packing.tokens.run < packing.tokens.padded) is packed


@pytest.mark.parametrize("family", ["bert", "llama"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_texts_without_a_token(family, attention):
    """They give zeros, and the others what they give without them."""
    model = tiny(family, attention)
    inputs = batch(model, (0, 9, 0, 2, 4))
    expected = hidden(model, {name: tensor[[1, 3, 4]] for name, tensor in inputs.items()})
    with clm.pack_batches(model):
        found = hidden(model, inputs)
        with set_pooling(model, "mean"):
            _, loss, gradients = outcome(model, inputs)
    real = inputs["attention_mask"].bool()
    assert not found[[0, 2]].any()
    assert_close(found[[1, 3, 4]][real[[1, 3, 4]]], expected[real[[1, 3, 4]]], torch.float32)
    assert loss.isfinite() and all(gradient.isfinite().all() for gradient in gradients.values())


@pytest.mark.parametrize("lengths", [(7, 7, 7), (0, 0)], ids=str)
def test_where_nothing_is_saved_the_batch_runs_as_it_is(lengths):
    model = tiny()
    inputs = batch(model, lengths, width=7)
    expected = hidden(model, inputs)
    pooled = model.bert(inputs["input_ids"], inputs["attention_mask"]).pooler_output
    with clm.pack_batches(model) as packing:
        outcome(model, batch(model))  # of which nothing stays behind
        packing.tokens = PackedTokens()
        assert torch.equal(hidden(model, inputs), expected)
        assert torch.equal(model.bert(inputs["input_ids"], inputs["attention_mask"]).pooler_output, pooled)
        packing.tokens = PackedTokens()
        hidden(model, inputs)
        del inputs["attention_mask"]
        hidden(model, inputs)
        assert packing.tokens == (7 * len(lengths) + sum(lengths), 14 * len(lengths), 14 * len(lengths))


class TestInputs:
    def test_token_types_and_positions_go_with_their_tokens(self):
        model = tiny()
        inputs = batch(model)
        ids, real = inputs["input_ids"], inputs["attention_mask"].bool()
        plain = hidden(model, inputs)
        for more in ({"token_type_ids": ids % 2}, {"position_ids": (ids * 7) % 30}, {"position_ids": torch.arange(11)[None] + 3}):
            expected = hidden(model, inputs, **more)
            assert not torch.allclose(expected[real], plain[real])
            with clm.pack_batches(model):
                assert_close(hidden(model, inputs, **more)[real], expected[real])

    def test_by_position(self):
        model = tiny()
        inputs = batch(model)
        given = inputs["input_ids"], inputs["attention_mask"]
        expected, real = model.bert(*given), inputs["attention_mask"].bool()
        with clm.pack_batches(model) as packing:
            found = model.bert(*given)
            assert packing.tokens.run < packing.tokens.padded
        assert_close(found.last_hidden_state[real], expected.last_hidden_state[real])
        assert_close(found.pooler_output, expected.pooler_output)

    @pytest.mark.parametrize("family", ["roberta", "mpnet"])
    def test_a_padding_id_within_a_text_counts_as_the_family_has_it(self, family):
        model = tiny(family, "eager")
        inputs = batch(model)
        inputs["input_ids"][3, 2] = base_model(model).embeddings.padding_idx
        real, expected = inputs["attention_mask"].bool(), hidden(model, inputs)
        with clm.pack_batches(model):
            assert_close(hidden(model, inputs)[real], expected[real])

    def test_a_bool_mask_and_more_padding(self):
        model = tiny()
        inputs = batch(model, (5, 5), width=9)
        inputs["attention_mask"] = inputs["attention_mask"].bool()
        expected = hidden(model, inputs)
        with clm.pack_batches(model) as packing:
            assert_close(hidden(model, inputs)[:, :5], expected[:, :5])
            assert packing.tokens == (10, 18, 10)

    def test_a_base_model_alone(self):
        model = tiny().bert
        inputs = {name: tensor for name, tensor in batch(model).items() if name != "labels"}
        expected, real = model(**inputs).last_hidden_state, inputs["attention_mask"].bool()
        with clm.pack_batches(model):
            assert_close(model(**inputs).last_hidden_state[real], expected[real])


def test_active_tokens_are_the_same_ones():
    def run(packed):
        model = tiny()
        handle = clm.patch(model, models.select(model), energy=0.7)
        if packed:
            clm.pack_batches(model)
        found = outcome(model, batch(model))
        return found, handle.active.counts()

    (expected, counts), (found, its_counts) = run(False), run(True)
    assert_alike(found, expected)
    assert counts.keys() == its_counts.keys()
    for name, (kept, came) in counts.items():
        assert its_counts[name][0] == kept < 29 and came == 66 and its_counts[name][1] <= 32


def test_layers_that_are_computed_again():
    model = tiny("llama").train()
    inputs = batch(model)
    expected = outcome(model, inputs)
    checkpoint_layers(model)
    with clm.pack_batches(model):
        assert_alike(outcome(model, inputs), expected, dtype=torch.float32)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", ["bert", "llama"])
@pytest.mark.parametrize("autocast", [False, True])
def test_bf16(family, attention, autocast):
    model = tiny(family, attention, dtype=torch.float32 if autocast else torch.bfloat16)
    inputs = batch(model)
    real = inputs["attention_mask"].bool()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast), torch.no_grad():
        expected = hidden(model, inputs)
        with clm.pack_batches(model):
            found = hidden(model, inputs)
    assert found.dtype == expected.dtype
    assert (found[real] - expected[real]).float().norm() < 0.03 * expected[real].float().norm()


def test_validation_is_packed_and_not_counted():
    model = tiny()
    widths = []
    layers_of(model)[0].register_forward_pre_hook(lambda module, args: widths.append(args[0].shape[0] * args[0].shape[1]))
    with clm.pack_batches(model) as packing, torch.no_grad():
        hidden(model, batch(model))
        assert packing.tokens == (0, 0, 0) and widths[0] <= 32


def test_no_cache_of_packed_rows_comes_out():
    model = tiny("llama")
    inputs = {name: tensor for name, tensor in batch(model).items() if name != "labels"}
    kept = lambda: any(map(is_cache, model.model(**inputs).values()))  # noqa: E731
    assert kept()
    with clm.pack_batches(model):
        assert not kept()
