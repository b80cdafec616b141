"""The cost model against FLOPs that torch counts while the model runs."""

import math
import re

import models
import pytest
import torch
from models import CONFIGS, build
from oracles import assert_as_before, everything_about, lived_in
from torch.utils.flop_counter import FlopCounterMode

import clm_kernels as clm
from clm_kernels import Entries, Selection
from clm_kernels.selecting.budget.cost import CostModel, step_cost
from clm_kernels.selecting.scores.sensitivity import eligible_weights
from clm_kernels.selecting.units.control import random_selection
from clm_kernels.selecting.units.finding import find_units

SMALL = {"hidden_size": 64, "num_hidden_layers": 4, "intermediate_size": 192, "max_position_embeddings": 64}
SIZES = {"tiny": ({}, (4, 7)), "small": (SMALL, (3, 48))}
AGREES = 0.01  # of the counted FLOPs


def compact_flops(dy, x, index, *args, out_shape=None, **kwargs):
    return 2 * dy[0] * math.prod(out_shape)


def eager(family, task="sequence", **changes):
    model = build(family, task, **changes)
    model.set_attn_implementation("eager")  # torch counts none of the products inside a fused attention on the CPU
    return model


def counted(model, batch, length, task="sequence"):
    """FLOPs of one forward and of one backward."""
    ids = torch.randint(3, 60, (batch, length))
    labels = torch.zeros(batch, dtype=torch.long) if task == "sequence" else ids % 3
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    with FlopCounterMode(display=False) as forward:
        loss = model(**given).loss
    with FlopCounterMode(display=False, custom_mapping={torch.ops.clm_kernels.weight_grad: compact_flops}) as backward:
        loss.backward()
    return forward.get_total_flops(), backward.get_total_flops()


TASKS = [(family, "sequence") for family in CONFIGS] + [(family, "causal") for family in models.DECODERS]


@pytest.mark.parametrize(("family", "task"), [*TASKS, ("bert", "token"), ("gpt2", "token")])
def test_full_fine_tuning(family, task):
    model = eager(family, task)
    cost = step_cost(model, batch=4, length=16)
    forward, backward = counted(model, 4, 16, task)
    assert cost.forward == pytest.approx(forward, rel=AGREES)
    assert cost.backward == cost.full == pytest.approx(backward, rel=AGREES)
    assert cost.share == 1


def one_kind(kind, layers="all", density=0.2):
    return lambda model: random_selection(model, density=density, kind=kind, layers=layers, block=(8, 8))


def only(*parts):
    """Rows of the weights in the second layer whose names hold one of `parts`."""
    return lambda model: Selection(
        (name, models.entries(tuple(module.weight.shape), "rows"))
        for name, module in eligible_weights(model).items()
        if ".1." in name and any(part in name for part in parts)
    )


def embedding(model):
    return find_units(model, "embeddings").select(torch.arange(64) < 5)


FEED_FORWARD = ("intermediate", "layer.1.output", "mlp")
CHOICES = {
    "rows": one_kind("rows"),
    "columns": one_kind("columns"),
    "blocks": one_kind("blocks"),
    "upper half": one_kind("columns", "upper half"),
    "everything": one_kind("rows", density=1.0),
    "a layer's last weight": only("layer.1.output", "mlp.Wo", "mlp.down_proj"),
    "a layer's feed-forward part": only(*FEED_FORWARD),
    "a layer's output projection": only("attention.output", "attn.Wo", "o_proj"),
    "embeddings": embedding,
    "nothing but the head": lambda model: Selection(),
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("family", ["bert", "modernbert", "llama"])
@pytest.mark.parametrize("chosen", CHOICES)
def test_selections(family, size, chosen):
    changes, (batch, length) = SIZES[size]
    model = eager(family, **changes)
    selection = CHOICES[chosen](model)
    cost = step_cost(model, selection, batch=batch, length=length)
    full = counted(model, batch, length)[1]
    clm.patch(model, selection)
    forward, backward = counted(model, batch, length)
    assert cost.forward == pytest.approx(forward, rel=AGREES)
    assert cost.backward == pytest.approx(backward, rel=AGREES)
    assert cost.share == pytest.approx(backward / full, rel=AGREES)
    assert 0 < cost.share < 1


@pytest.mark.parametrize("whole", [{"biases": True}, {"norms": True}, {"biases": True, "norms": True}], ids=str)
@pytest.mark.parametrize("family", ["bert", "modernbert", "qwen3", "gpt2"])
def test_biases_and_norms_deepen_the_backward(family, whole):
    """They are trained from the lowest selected layer up, and may stand before its selected weights."""
    changes = {"n_layer": 4} if family == "gpt2" else SMALL
    model = eager(family, **changes)
    selection = only(*FEED_FORWARD)(model)
    cost, plain = step_cost(model, selection, batch=3, length=16, **whole), step_cost(model, selection, batch=3, length=16)
    clm.patch(model, selection, **whole)
    assert cost.backward == pytest.approx(counted(model, 3, 16)[1], rel=AGREES)
    assert cost.backward > plain.backward or (family in ("modernbert", "qwen3") and "norms" not in whole)  # without biases


def test_training_values_alone_is_bounded_from_above():
    """The products with queries and keys are counted, though autograd leaves them out in the lowest layer."""
    model = eager("bert", **SMALL)
    selection = only("value")(model)
    cost = step_cost(model, selection, batch=3, length=16)
    clm.patch(model, selection)
    assert 1 < cost.backward / counted(model, 3, 16)[1] < 1.05


def test_a_tied_embedding_is_used_twice():
    """Of rows of the embedding, the head's product makes a compact gradient; below all layers the backward goes to the end."""
    model = eager("llama", "causal", tie_word_embeddings=True)
    cost = CostModel(model, 4, 16)
    assert cost.place("model.embed_tokens.weight") == cost.place("lm_head.weight") == -0.5
    assert cost.per_entry("model.embed_tokens.weight") == 2 * 4 * 16
    selection = Selection({"model.embed_tokens.weight": Entries.of("rows", range(8), (64, 32))})
    whole = cost.of(selection)
    clm.patch(model, selection, head=False)
    assert whole.backward == pytest.approx(counted(model, 4, 16, "causal")[1], rel=AGREES)


def test_the_model_is_left_as_it_was():
    model = lived_in(build("bert", dropout=0.3))
    before, random = everything_about(model), torch.random.get_rng_state()
    CostModel(model, 2, 8)
    assert_as_before(model, before)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({}, {"batch": 0}, "cost: batch must be at least 1, got 0"),
        ({}, {"length": 0}, "cost: length must be at least 1, got 0"),
        ({}, {"length": 33}, "cost: length must be at most the model's 32 positions, got 33"),
        ({"family": "roberta"}, {"length": 32}, "cost: the model must run on 1 texts of 32 tokens, got "),
    ],
)
def test_errors(changes, arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        CostModel(build(**changes), **{"batch": 2, "length": 8} | arguments)


def test_experts_are_refused():
    model = build("llama")
    model.model.layers[0].mlp.experts = torch.nn.Parameter(torch.zeros(2, 3, 4))
    with pytest.raises(ValueError, match=r"^cost: the layers' weights must have two dims, got \(2, 3, 4\) of 'model.layers.0"):
        CostModel(model, 2, 8)


def test_layers_that_come_and_go_are_refused(monkeypatch):
    model = build("bert")
    layer = model.bert.encoder.layer[1].intermediate
    own = layer.forward
    monkeypatch.setattr(layer, "forward", lambda x: own(x) if x.shape[0] == 1 else x.new_zeros(*x.shape[:-1], 48))
    with pytest.raises(ValueError, match=r"^cost: the model must run the same linear layers for every batch, got others in Bert"):
        CostModel(model, 2, 8)
