"""`patch(noise=)`: the gradients of a plain-torch simulation with the same tokens, no bias, and what must hold as without it."""

import pytest
import torch
from active_tokens import assert_gradients_as_simulated, compact_gradients, drawn_by_brute_force, simulate
from gradients import WHOLE, backward
from models import batch, build, frozen, same, select, train

import clm_kernels as clm
from clm_kernels import ops
from clm_kernels.models.recomputing import checkpoint_layers

NOISE, START = 0.2, 0.3
FAMILIES = [("bert", "sequence"), ("bert", "token"), ("gpt2", "causal"), ("llama", "sequence"), ("modernbert", "sequence")]


def patched(family="bert", task="sequence", noise=NOISE, dtype=torch.float32, **changes):
    model = build(family, task, dtype, dropout=0.0, **changes)
    return model, clm.patch(model, select(model), **WHOLE, noise=noise)


def from_one_start(dy, noise):
    return ops.drawn_tokens(dy, noise, torch.tensor(START, dtype=torch.float64))


def weighed_by_brute_force(dy, noise):
    return dy * torch.tensor(drawn_by_brute_force(dy, noise, START)[1], dtype=dy.dtype)[:, None]


def tied(task):
    return {"tie_word_embeddings": True} if task == "causal" else {}


@pytest.mark.parametrize(("family", "task"), FAMILIES)
def test_gradients_equal_a_plain_torch_simulation(family, task):
    model, handle = patched(family, task, dtype=torch.float64, **tied(task))
    handle.active.choose = from_one_start
    dense = simulate(build(family, task, torch.float64, dropout=0.0, **tied(task)), NOISE, weighed_by_brute_force)
    torch.testing.assert_close(backward(model, task), backward(dense, task), rtol=1e-12, atol=0)
    # Weights are float32, and a product of two of them per layer reaches the lowest one.
    assert_gradients_as_simulated(dense, handle, rtol=1e-5, atol=1e-9)
    every = build(family, task, torch.float64, dropout=0.0, **tied(task))
    backward(every, task)
    with pytest.raises(AssertionError):
        assert_gradients_as_simulated(every, handle, rtol=1e-3)


def test_gradients_are_right_in_the_mean():
    """Of 300 draws: what is left of the error of one is what chance leaves of it, a seventeenth."""
    torch.manual_seed(0)
    model, handle = patched("bert", "token", dtype=torch.float64, noise=0.5)
    every, whole = patched("bert", "token", dtype=torch.float64, noise=0.0)
    backward(every, "token")
    expected, runs, one = flat(whole), 300, 0.0
    mean = torch.zeros_like(expected)
    for _ in range(runs):
        model.zero_grad()
        backward(model, "token")
        mean += flat(handle) / runs
        one += float((flat(handle) - expected).norm()) / runs
    assert one > 0.1 * expected.norm() and (mean - expected).norm() < 2 * one / runs**0.5
    assert max(handle.active.shares().values()) < 1


def flat(handle):
    """The gradients in one of what is selected in the layers."""
    return torch.cat([values.grad.flatten() for name, values in handle.values.items() if ".layer." in name])


def test_without_noise_nothing_is_swapped():
    _, handle = patched(noise=0.0)
    assert not handle.active
    with pytest.raises(ValueError, match=r"patch: energy and noise must be given one without the other, got 0\.9 and 0\.2"):
        clm.patch(build("bert"), select(build("bert")), energy=0.9, noise=0.2)


@pytest.mark.parametrize("noise", [-0.1, 1.0, float("nan")])
def test_noise_out_of_range(noise):
    with pytest.raises(ValueError, match=r"patch: noise must be in \[0, 1\)"):
        patched(noise=noise)


def test_a_layer_whose_backward_nobody_knows_is_named():
    with pytest.raises(
        ValueError, match=r"patch: noise must be 0 for a model with '.*', a FalconLinear whose backward nobody here knows"
    ):
        patched("falcon")


def test_the_generator_of_torch_decides():
    model, handle = patched()
    drawn = []
    for seed in (1, 1, 2):
        model.zero_grad()
        torch.manual_seed(seed)
        backward(model)
        drawn.append(compact_gradients(handle))
    assert same(drawn[0], drawn[1]) and not same(drawn[0], drawn[2])


@pytest.mark.parametrize("how", ["reentrant", "not reentrant", "layers"])
def test_gradient_checkpointing(how):
    model, handle = patched()
    handle.active.choose = from_one_start
    backward(model)
    expected = compact_gradients(handle)
    model.zero_grad()
    checkpoint_layers(model) if how == "layers" else model.gradient_checkpointing_enable({"use_reentrant": how == "reentrant"})
    backward(model)
    assert same(compact_gradients(handle), expected)


def test_compile_without_a_graph_break():
    torch._dynamo.reset()
    model, handle = patched()
    handle.active.choose = from_one_start
    loss = backward(model)
    expected = compact_gradients(handle)
    model.zero_grad()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(backward(compiled), loss)
    torch.testing.assert_close(compact_gradients(handle), expected, rtol=1e-5, atol=1e-7)


def test_starts_are_drawn_under_compile_too():
    torch._dynamo.reset()
    model, handle = patched()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    backward(compiled)
    first = compact_gradients(handle)
    model.zero_grad()
    backward(compiled)
    assert not same(first, compact_gradients(handle))


def test_autocast_and_accumulation():
    model, handle = patched()
    with torch.autocast("cpu", torch.bfloat16):
        for seed in range(2):
            model(**batch(model, seed=seed)).loss.backward()
    assert all(values.grad.dtype == torch.float32 and values.grad.isfinite().all() for values in handle.values.values())
    assert all(0 < share < 1 for share in handle.active.shares().values())


def test_what_is_not_selected_keeps_its_bits():
    model, handle = patched(noise=0.5)
    before = frozen(model, handle.selection)
    train(model, clm.SparseAdamW(model.parameters(), lr=1e-2))
    handle.restore()
    after = frozen(model, handle.selection)
    assert all(torch.equal(before[name], after[name]) for name in before if name not in handle.whole)
    assert len(before) > len(handle.whole)
