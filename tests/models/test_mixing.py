"""`mix_layers`: head and pooling read a learned mix of all layers, in every family, from checkpoints and deltas too."""

import copy

import models
import pytest
import torch
from models import bits, build, same
from tolerances import assert_close

import clm_kernels as clm
from clm_kernels.models.conform import conform
from clm_kernels.models.mixing import NAME, mix_layers, mix_weights, mixes_layers
from clm_kernels.models.pooled_head import POOLED
from clm_kernels.models.pooling import set_pooling
from clm_kernels.models.structure import base_model, head_names
from clm_kernels.optim import SparseAdamW
from clm_kernels.recipe import Recipe

NO_TAGS = ("opt", "gemma3", "gptj")  # transformers has no token classification for them


def classifier(family="bert", task="sequence", pooling="mean", **changes):
    """A model whose head may read a mix, without dropout."""
    model = build(family, task, **changes).eval()
    return set_pooling(model, pooling).model if task == "sequence" else model


def weigh(model, k):
    """All weight on state k."""
    scalars = getattr(model, NAME).scalars
    with torch.no_grad():
        scalars.fill_(-1e4)[k] = 1e4


def without_labels(model, task="sequence"):
    return {name: tensor for name, tensor in models.batch(model, task=task).items() if name != "labels"}


@pytest.mark.parametrize("task", ["sequence", "token"])
@pytest.mark.parametrize("family", models.CONFIGS)
def test_all_weight_on_a_state_gives_what_the_head_makes_of_it(family, task):
    if task == "token" and family in NO_TAGS:
        pytest.skip("transformers has no token classification for it")
    model = classifier(family, task)
    batch, base = without_labels(model, task), base_model(model)
    plain = copy.deepcopy(model)
    states = base_model(build(family, task).eval())(**batch, output_hidden_states=True)
    expected = [*states.hidden_states[:-1], states.last_hidden_state]
    assert len(expected) == 3
    handle = mix_layers(model)
    for k, state in enumerate(expected):
        weigh(model, k)
        hook = base_model(plain).register_forward_hook(
            lambda module, args, output, state=state: output.__setitem__("last_hidden_state", state), prepend=True
        )
        assert_close(model(**batch).logits, plain(**batch).logits)
        hook.remove()
    assert torch.equal(model(**batch).logits, plain(**batch).logits)  # the last state, after a final norm
    assert base(**batch).hidden_states is None
    handle.restore()
    assert torch.equal(model(**batch).logits, plain(**batch).logits)


def test_equation_1():
    model = classifier("llama", pooling="last", dtype=torch.float64)
    batch = without_labels(model)
    states = base_model(build("llama", dtype=torch.float64).eval())(**batch, output_hidden_states=True).hidden_states
    mix_layers(model)
    mix = getattr(model, NAME)
    assert mix.scalars.tolist() == [0, 0, 2] and mix.gamma.tolist() == [1]
    scalars = torch.tensor([0.3, -1.0, 0.5], dtype=torch.float64)
    with torch.no_grad():
        mix.scalars.copy_(scalars)
        mix.gamma.fill_(1.5)
    shares = scalars.exp() / scalars.exp().sum()
    mixed = 1.5 * sum(share * state for share, state in zip(shares, states, strict=True))
    last = batch["attention_mask"].sum(1) - 1
    torch.testing.assert_close(
        model(**batch).logits, model.score(mixed[torch.arange(4), last]), rtol=1e-6, atol=1e-6
    )  # the weights are float32


@pytest.mark.parametrize("pooling", POOLED)
def test_the_weights_learn_and_what_is_below_stays(pooling):
    model = classifier(pooling=pooling)
    mix_layers(model)
    assert [name for name in head_names(model) if name.startswith(NAME)] == [f"{NAME}.scalars", f"{NAME}.gamma"]
    handle = clm.patch(model, clm.Selection())
    before, frozen = bits(model), set(bits(model)) - set(head_names(model))
    models.train(model, SparseAdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2))
    now = bits(model)
    assert all(torch.equal(now[name], before[name]) for name in frozen)
    assert not any(torch.equal(now[name], before[name]) for name in head_names(model))
    assert {f"{NAME}.scalars", f"{NAME}.gamma"} <= handle.whole.keys()


def learnt(pooling="mean", **changes):
    """A mixing model and its delta, with other weights than at first."""
    model = classifier(pooling=pooling, **changes)
    mix_layers(model)
    handle = clm.patch(model, clm.Selection())
    models.train(model, SparseAdamW([p for p in model.parameters() if p.requires_grad], lr=1e-1))
    delta = handle.delta()
    handle.restore()
    return model.eval(), delta


def test_a_delta_brings_the_mix_along_and_takes_it_away(tmp_path):
    model, delta = learnt()
    assert delta.recipe.mix_layers
    delta.save(tmp_path / "d.safetensors")
    base = build().eval()
    batch, before, hooks = without_labels(base), bits(base), dict(base_model(base)._forward_hooks)
    with clm.Delta.load(tmp_path / "d.safetensors").applied(base):
        assert mixes_layers(base)
        assert torch.equal(base(**batch).logits, model(**batch).logits)
    assert not mixes_layers(base) and same(bits(base), before) and dict(base_model(base)._forward_hooks) == hooks


def test_several_on_one_trunk():
    (one, first), (two, second) = learnt(), learnt(seed=0)
    base = build().eval()
    batch = without_labels(base)
    with first.applied(base), second.applied(base):
        assert torch.equal(base(**batch).logits, two(**batch).logits)
    plain = clm.patch(set_pooling(build(), "mean").model, clm.Selection()).delta()
    with (
        first.applied(base),
        pytest.raises(ValueError, match=r"Delta: the head must read the last layer alone as in training, got"),
    ):
        plain.apply(base)
    with (
        plain.applied(base),
        pytest.raises(ValueError, match=r"Delta: the head must read a mix of all layers as in training, got"),
    ):
        first.apply(base)
    with first.applied(base):
        assert torch.equal(base(**batch).logits, one(**batch).logits)


class TestRefused:
    def test_a_delta_for_a_model_of_other_depth_or_kind(self):
        _, delta = learnt()
        with pytest.raises(ValueError, match=rf"^Delta: '{NAME}.scalars' must have shape \(3,\), got \(4,\)"):
            delta.apply(build(num_hidden_layers=3))
        bare = base_model(build())
        with pytest.raises(ValueError, match=r"^Delta: "):
            delta.apply(bare)
        assert not mixes_layers(bare)

    def test_native_pooling(self):
        model = build()
        with pytest.raises(
            ValueError, match=r"^mix_layers: pooling must be last, mean, max or cls where layers are mixed, got 'nat"
        ):
            mix_layers(model)
        assert not mixes_layers(model)
        with pytest.raises(ValueError, match=r"^conform: pooling must be last"):
            conform(model, Recipe(mix_layers=True))

    def test_twice(self):
        model = classifier()
        mix_layers(model)
        with pytest.raises(ValueError, match=r"^mix_layers: model must be one that does not mix its layers yet"):
            mix_layers(model)

    def test_a_bare_base_model(self):
        with pytest.raises(ValueError, match=r"^mix_layers: model must be a base model with a head above it, got BertModel"):
            mix_layers(base_model(build()))

    def test_outputs_in_a_tuple(self):
        model = classifier()
        mix_layers(model)
        with pytest.raises(ValueError, match=r"^mix_layers: return_dict must be True"):
            base_model(model)(**without_labels(model), return_dict=False)

    def test_states_of_several_sizes(self):
        model = classifier("opt", word_embed_proj_dim=16)
        mix_layers(model)
        with pytest.raises(ValueError, match=r"^mix_layers: the base model must be one whose layers' states have one size"):
            model(**without_labels(model))

    def test_its_lower_layers_replayed(self):
        model = classifier()
        mix_layers(model)
        clm.patch(model, clm.Selection())
        with pytest.raises(ValueError, match=r"^replay: model must be one whose head reads the last layer alone"):
            clm.replay(model)


def test_the_names_that_a_mix_adds():
    model = classifier()
    planned = mix_weights(model)
    mix_layers(model)
    found = dict(model.named_parameters())
    assert planned.keys() == {name for name in found if name.startswith(NAME)}
    assert all(torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in planned.items())
