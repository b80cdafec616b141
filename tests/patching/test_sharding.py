"""`clm.shard`: processes that hold a model together train it as one that holds all of it."""

import pytest
import torch
from models import build, select
from sharded_models import COUNTED, SCENARIOS, STEPS, alone, every_rank

import clm_kernels as clm

close = {"rtol": 0, "atol": 1e-6}


@pytest.mark.parametrize("name", SCENARIOS)
def test_processes_train_as_one_does(name):
    first, *others = (rank[name] for rank in every_rank())
    one, tolerance = alone(name), {"rtol": 2e-2, "atol": 1e-2} if name == "bfloat16" else close
    torch.testing.assert_close(first["values"], one["values"], **tolerance)
    torch.testing.assert_close(first["weights"], {key: one["weights"][key] for key in first["weights"]}, **tolerance)
    torch.testing.assert_close(first["seen"], one["seen"], rtol=0, atol=1e-2 if name == "bfloat16" else 1e-5)
    for other in others:
        assert all(torch.equal(other["values"][key], tensor) for key, tensor in first["values"].items())


@pytest.mark.parametrize("name", SCENARIOS)
def test_frozen_entries_keep_their_bits(name):
    first = every_rank()[0][name]
    for key, weight in first["weights"].items():
        base = first["base"][key]
        if key in first["trained"]:
            assert not torch.equal(weight, base)
            at = first["trained"][key].flat_index().flatten()
            weight.view(-1)[at] = base.view(-1)[at]
        elif key in first["values"]:
            continue
        assert torch.equal(weight, base), key


def test_an_even_base_takes_a_quarter_of_four_processes():
    """Of the base 0.25, and at 2 % of the entries at most 0.3 with all that is trained: values, biases, norms, head."""
    held = every_rank()[0]["few"]["held"]
    assert 0.2 < held.shards / held.base < 0.26
    assert (held.shards + held.trained) / held.base <= 0.3


@pytest.mark.parametrize("name", ["columns", "bfloat16"])
def test_gradients_of_what_is_trained_are_all_that_is_averaged(name):
    first, one = every_rank()[0][name], alone(name)
    compact = sum(tensor.nbytes for tensor in one["values"].values())
    assert first["exchanged"] == compact


def test_accumulated_gradients_are_averaged_once_a_step():
    assert every_rank()[0]["accumulated"]["reductions"] == every_rank()[0]["columns"]["reductions"] == STEPS


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("name", COUNTED)
def test_what_is_held_and_exchanged_is_what_was_estimated(name, processes):
    for rank in every_rank():
        found = rank["counted", name, processes]
        told, held = found["told"], found["held"]
        assert (held.shards, found["forward"]["_allgather_base_"]) == (told.shards, told.forward)
        assert found["backward"]["_allgather_base_"] == told.backward
        assert found["backward"]["allreduce_"] == told.reduced and found["forward"]["allreduce_"] == 0
        assert held.trained <= told.trained < 3 * held.trained  # with the indices


def test_what_cannot_be_divided_is_refused_by_every_process():
    for rank in every_rank():
        said = rank["refused"]
        assert said["mesh"] == "ValueError: shard: mesh must be of one dimension (FSDP2 without replicas), got 2"
        assert (
            said["twice"] == "RuntimeError: shard: the handle must be of a patched, whole model, got one that is divided already"
        )
        assert said["restored"].endswith("got one that is restored")
        assert said["other"] == (
            "ValueError: shard: the model and its selection must be the same on every process, got others on process 2 than on 0"
        )
        assert "shard: 'bert.embeddings.position_embeddings.weight' must be of a linear layer or an embedding" in said["hooked"]


def test_a_group_of_processes_is_asked_for():
    model = build()
    with pytest.raises(RuntimeError, match=r"shard: torch\.distributed must be initialised"):
        clm.shard(clm.patch(model, select(model)))


def test_a_delta_knows_what_a_shard_has_lost():
    for rank in every_rank():
        assert "are not what the model holds" in rank["lost"]
        assert "RuntimeError: Delta: the model must be whole, got one that is divided over processes" in rank["applied"]
        assert rank["refreshed"] and rank["after"]
