"""Two processes over gloo: what they exchange, and that they train as one process does."""

import pytest
import torch
from models import batch, bits, build, select, train
from two_ranks import ARGUMENTS, SCENARIOS, STEPS, halves, two_ranks

import clm_kernels as clm


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name != "unpatched"])
def test_ranks_train_as_one_process_does(name):
    first, second = two_ranks(name)
    assert "error" not in first and all(torch.equal(first["weights"][key], second["weights"][key]) for key in first["weights"])
    scenario = {"family": "bert", "task": "sequence", "dtype": torch.float32, "micro": 1} | SCENARIOS[name]
    family, task, dtype, micro = (scenario.pop(key) for key in ("family", "task", "dtype", "micro"))
    model = build(family, task, dtype)
    clm.patch(model, select(model, scenario.pop("kind")), **scenario)
    optimizer = clm.SparseAdamW(model.parameters(), **ARGUMENTS)
    for step in range(STEPS):
        for i in range(micro):
            whole = batch(model, seed=step * micro + i, task=task)
            for rank in range(2):
                (model(**halves(whole, rank)).loss / 2 / micro).backward()
        optimizer.step()
        optimizer.zero_grad()
    close = {"rtol": 2e-2, "atol": 1e-2} if dtype == torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(first["weights"], bits(model), **close)


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name != "unpatched"])
def test_only_compact_gradients_are_exchanged(name):
    for rank in two_ranks(name):
        assert sum(rank["exchanged"]) == STEPS * rank["compact"]
        assert rank["compact"] < rank["dense"] / 2


def test_each_rank_chooses_its_own_active_tokens():
    first, second = (rank["shares"] for rank in two_ranks("energy"))
    assert first.keys() == second.keys() and first and first != second
    assert all(0 < share < 1 for share in (*first.values(), *second.values()))
    without = build()
    clm.patch(without, select(without), biases=True)
    optimizer = clm.SparseAdamW(without.parameters(), **ARGUMENTS)
    train(without, optimizer, STEPS)
    name = "bert.encoder.layer.0.output.dense.weight"
    assert not torch.allclose(two_ranks("energy")[0]["weights"][name], bits(without)[name], rtol=1e-4, atol=1e-5)


def test_an_unpatched_model_refuses():
    """There DDP reduces the dense gradient after the compact one was taken from it: ranks would drift apart."""
    for rank in two_ranks("unpatched"):
        assert "DDP puts it back" in rank["error"]


def test_training_alone_is_what_is_compared():
    """The one-process run moves every selected weight, so that the comparisons above can fail."""
    model = build()
    before = bits(model)
    handle = clm.patch(model, select(model))
    train(model, clm.SparseAdamW(model.parameters(), **ARGUMENTS), STEPS)
    assert all(not torch.equal(model.get_parameter(name), before[name]) for name in handle.selection)
