"""What `pack_batches` refuses, and that the model is then left as it was."""

import pytest
import torch
from models import bits, build, same
from packed_models import batch, tiny

import clm_kernels as clm


class TestRefused:
    @pytest.mark.parametrize("family", ["albert", "deberta", "modernbert", "opt", "gptj", "falcon"])
    def test_other_families(self, family):
        model = build(family)
        kind = model.config.model_type
        with pytest.raises(ValueError, match=f"^pack_batches: model must be of a family that is exact .*, got '{kind}'$"):
            clm.pack_batches(model)

    def test_no_model_of_transformers(self):
        with pytest.raises(ValueError, match=r"^pack_batches: model must be of a family .*, got 'Linear'$"):
            clm.pack_batches(torch.nn.Linear(2, 2))

    def test_bert_as_a_decoder(self):
        with pytest.raises(ValueError, match=r"^pack_batches: model must be no decoder of an encoder, got a BertFor"):
            clm.pack_batches(build(is_decoder=True))

    def test_other_attentions(self):
        model = build()
        model.config._attn_implementation = "flash_attention_2"
        with pytest.raises(ValueError, match=r"implementation must be eager or sdpa, got 'flash_attention_2'$"):
            clm.pack_batches(model)

    def test_twice(self):
        model = build()
        with clm.pack_batches(model), pytest.raises(ValueError, match=r"one whose batches are not packed yet, got one that is$"):
            clm.pack_batches(model)
        clm.pack_batches(model)

    def test_replay(self):
        model = build()
        clm.patch(model, clm.Selection())
        with clm.replay(model), pytest.raises(ValueError, match=r"one whose layers all run, got one that replay has changed$"):
            clm.pack_batches(model)
        with clm.pack_batches(model), clm.replay(model), pytest.raises(ValueError, match=r"got one that replay has changed$"):
            model(**batch(model))

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            (
                {"attention_mask": torch.tensor([[0, 1, 1], [1, 1, 1]])},
                r"texts must be padded on the right .*, got padding before$",
            ),
            ({"attention_mask": torch.ones(2, 1, 3, 3)}, r"attention_mask must be of shape \(2, 3\), .*, got \(2, 1, 3, 3\)$"),
            ({"attention_mask": torch.ones(2, 4)}, r"attention_mask must be of shape \(2, 3\), .*, got \(2, 4\)$"),
            ({"inputs_embeds": torch.ones(2, 3, 32)}, r"inputs must be of attention_mask, .*, got inputs_embeds$"),
            ({"input_ids": None}, r"inputs must be of .*, got no ids$"),
            ({"output_hidden_states": True}, r"output_hidden_states must be False, got True$"),
            ({"output_attentions": True}, r"output_attentions must be False, got True$"),
            ({"use_cache": True}, r"use_cache must be False, got True$"),
            ({"return_dict": False}, r"return_dict must be True, got False$"),
        ],
        ids=str,
    )
    def test_inputs(self, given, message):
        model = build("llama")
        with clm.pack_batches(model), pytest.raises(ValueError, match=f"^pack_batches: {message}"):
            model.model(**{"input_ids": torch.ones(2, 3, dtype=torch.long)} | given)

    def test_a_cache(self):
        model = build("llama")
        cache = model(input_ids=torch.ones(2, 3, dtype=torch.long), use_cache=True).past_key_values
        name = "cache" if "cache" in type(model.model).forward.__wrapped__.__code__.co_varnames else "past_key_values"
        with clm.pack_batches(model), pytest.raises(ValueError, match=f"^pack_batches: inputs must be of .*, got {name}$"):
            model.model(input_ids=torch.ones(2, 1, dtype=torch.long), **{name: cache})

    def test_the_model_is_whole_again_after_an_error(self):
        model = tiny()
        inputs, before = batch(model), bits(model)
        expected = model(**inputs)
        with pytest.raises(IndexError), clm.pack_batches(model):
            model(**inputs | {"input_ids": inputs["input_ids"] + 10**6})
        found = model(**inputs)
        assert torch.equal(found.logits, expected.logits) and same(bits(model), before)
