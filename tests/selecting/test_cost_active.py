"""The cost of a backward that keeps active tokens alone, against FLOPs that are counted while it runs."""

import re

import pytest
import torch
from models import build

import clm_kernels as clm
from clm_kernels import Selection
from clm_kernels.measure.estimate.operations import flops
from clm_kernels.selecting.budget.cost import CostModel
from clm_kernels.selecting.units.control import random_selection
from clm_kernels.selecting.units.dealing import dealt_groups

AGREES = 0.02  # of the counted FLOPs
BATCH, LENGTH = 4, 16
BERT = {"hidden_size": 64, "num_hidden_layers": 4, "intermediate_size": 192}


def build_eager(family):
    model = build(family, **(BERT if family == "bert" else {"n_layer": 4}))
    model.set_attn_implementation("eager")  # torch counts none of the products inside a fused attention on the CPU
    return model


def dealt(model):
    return dealt_groups(model, density=0.25)


def of_kind(kind, layers="all"):
    return lambda model: random_selection(model, density=0.2, kind=kind, layers=layers, block=(8, 8))


CHOICES = {
    "dealt groups": dealt,
    "rows": of_kind("rows"),
    "columns": of_kind("columns"),
    "blocks, upper half": of_kind("blocks", "upper half"),
    "nothing but the head": lambda model: Selection(),
}
ENERGIES = {"everywhere": 0.9, "by role": {"feed_forward": 0.7, "output": 0.95}, "everything": 1.0}


def backward(model):
    ids = torch.randint(3, 60, (BATCH, LENGTH), generator=torch.Generator().manual_seed(0))
    ids[:, LENGTH // 2 :] = ids[:, : LENGTH // 2]
    loss = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=torch.arange(BATCH) % 3).loss
    return flops(loss.backward)


@pytest.mark.parametrize("energy", ENERGIES)
@pytest.mark.parametrize("chosen", CHOICES)
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_as_counted(family, chosen, energy):
    model = build_eager(family)
    selection, cost = CHOICES[chosen](model), CostModel(model, BATCH, LENGTH)
    handle = clm.patch(model, selection, biases=True, norms=True, energy=ENERGIES[energy])
    counted = backward(model)
    shares = handle.active.shares()
    assert all(0 < share < 1 for share in shares.values())
    found, every = (cost.of(selection, biases=True, norms=True, shares=given) for given in (shares, 1.0))
    assert found.backward == pytest.approx(counted, rel=AGREES)
    assert (found.forward, found.full) == (every.forward, every.full)
    assert bool(shares) == (found.input_gradients < 0.98 * every.input_gradients)
    layers = cost.by_layer(selection, biases=True, norms=True)
    saved = sum((1 - share) * layers[name] for name, share in shares.items())
    assert found.backward == pytest.approx(every.backward - saved, rel=1e-12)


def test_one_share_leaves_the_attentions_products_and_the_head_whole():
    model = build_eager("bert")
    selection, cost = dealt(model), CostModel(model, BATCH, LENGTH)
    every, half, none = (cost.of(selection, shares=share) for share in (1, 0.5, 0))
    assert half.backward == pytest.approx((every.backward + none.backward) / 2)
    attention = 4 * 8 * BATCH * LENGTH * LENGTH * 64  # layers, FLOPs of four products
    pooler_and_classifier = 2 * BATCH * (64 * 64 + 3 * 64)
    assert none.input_gradients == attention + pooler_and_classifier
    assert none.weight_gradients == cost.of_head()


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        (1.1, "cost: shares must be in [0, 1], got 1.1"),
        (
            {"bert.encoder.layer.0.output.dense": -1},
            "cost: shares must be in [0, 1], got -1 of 'bert.encoder.layer.0.output.dense'",
        ),
        ({"classifier": 0.5}, "cost: shares must be of linear layers in the model's layers, got 'classifier'"),
    ],
)
def test_errors(shares, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        CostModel(build("bert"), 2, 8).of(Selection(), shares=shares)
