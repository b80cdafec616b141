"""`handle.active.only`: tokens that are known before the forward, the same gradients as when they are chosen, and less memory."""

import pytest
import torch
from active_tokens import compact_gradients
from gradients import WHOLE, backward
from models import batch, build, select
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

import clm_kernels as clm
from clm_kernels.models.recomputing import checkpoint_layers


def patched(family="bert", kind="columns", dtype=torch.float64, energy=0.9):
    model = build(family, "sequence", dtype, dropout=0.0)
    return model, clm.patch(model, select(model, kind), **WHOLE, energy=energy)


def some(model):
    """Of the batch's tokens about a third."""
    ids = batch(model)["input_ids"]
    return torch.rand(ids.shape, generator=torch.Generator().manual_seed(3)) < 0.3


def choosing(mask):
    index = torch.cat([mask.flatten().nonzero(), (~mask.flatten()).nonzero()]).flatten()
    return lambda dy, energy: (index, mask.sum())


@pytest.mark.parametrize("kind", ["columns", "rows", "blocks", "elements"])
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_gradients_are_those_of_the_same_tokens_chosen_afterwards(family, kind):
    (model, handle), (other, chosen), (every, whole) = patched(family, kind), patched(family, kind), patched(family, kind)
    mask = some(model)
    chosen.active.choose = choosing(mask)
    with handle.active.only(mask):
        loss = backward(model)
    assert torch.equal(loss, backward(other))
    torch.testing.assert_close(compact_gradients(handle), compact_gradients(chosen), rtol=1e-12, atol=1e-15)
    assert set(handle.active.shares().values()) == {float(mask.double().mean())}
    backward(every)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(compact_gradients(handle), compact_gradients(whole), rtol=1e-3, atol=1e-6)


def test_all_tokens_give_the_gradients_of_every_token():
    (model, handle), (plain, every) = patched(), patched(energy=1)
    with handle.active.only(torch.ones_like(some(model))):
        backward(model)
    backward(plain)
    torch.testing.assert_close(compact_gradients(handle), compact_gradients(every), rtol=1e-12, atol=1e-15)


def bytes_kept(model, run):
    found = []

    def pack(tensor):
        found.append(tensor.numel() * tensor.itemsize)
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        run(**batch(model))
    return sum(found)


def test_of_the_other_tokens_no_input_is_kept():
    model, handle = patched()
    mask = some(model)
    whole = bytes_kept(model, model)
    with handle.active.only(mask):
        less = bytes_kept(model, model)
    columns = sum(handle.values[f"{name}.weight"].entries.index.numel() for name in handle.active)
    assert columns > 0 and whole - less == 8 * columns * int((~mask).sum())


def test_the_backward_may_come_later_and_another_forward_chooses_again():
    model, handle = patched()
    mask = some(model)
    with handle.active.only(mask):
        loss = model(**batch(model)).loss
    loss.backward()
    assert set(handle.active.shares().values()) == {float(mask.double().mean())}
    backward(model)
    assert len(set(handle.active.shares().values())) > 1


def test_contexts_nest_and_end_with_an_error():
    model, handle = patched()
    mask = some(model)
    with handle.active.only(mask):
        outer = handle.active.told
        with pytest.raises(KeyError), handle.active.only(~mask):
            raise KeyError
        assert handle.active.told is outer
    assert handle.active.told is None


def test_layers_that_are_computed_again_take_the_same():
    (model, handle), (other, plain) = patched(), patched()
    checkpoint_layers(model)
    mask = some(model)
    for each, held in ((model, handle), (other, plain)):
        with held.active.only(mask):
            backward(each)
    torch.testing.assert_close(compact_gradients(handle), compact_gradients(plain), rtol=1e-12, atol=1e-15)


def test_another_number_of_tokens_is_chosen_from_as_before():
    model, handle = patched()
    with handle.active.only(torch.ones(3, dtype=torch.bool)):
        backward(model)
    assert len(set(handle.active.shares().values())) > 1


def test_refusals():
    model, handle = patched()
    with (
        pytest.raises(ValueError, match=r"^only: tokens must be bool, one a token of the batch, got torch.int64"),
        handle.active.only(some(model).long()),
    ):
        pass
    _, every = patched(energy=1)
    told = r"^only: the model must be patched with an energy below 1, got one whose layers leave no token out"
    with pytest.raises(ValueError, match=told), every.active.only(some(model)):
        pass
    assert isinstance(model, nn.Module)
