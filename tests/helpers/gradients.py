"""A patched model beside the same one with dense gradients."""

import torch
from models import batch, build, select

import clm_kernels as clm
from clm_kernels import ops

WHOLE = {"biases": True, "norms": True}


def pair(family="bert", task="sequence", kind="columns", where="", dtype=torch.float32, **changes):
    """The same model unpatched and patched."""
    changes |= {"tie_word_embeddings": True} if task == "causal" else {}
    dense, model = (build(family, task, dtype, **changes) for _ in range(2))
    return dense, model, clm.patch(model, select(model, kind, where=where), **WHOLE)


def backward(model, task="sequence", **more):
    loss = model(**batch(model, task=task), **more).loss
    loss.backward()
    return loss.detach()


def assert_gradients_equal(dense, model, handle, tolerance=1e-6):
    """Every trained thing has the dense model's gradient; nothing else has one."""
    expected = dict(dense.named_parameters(remove_duplicate=False))
    for name, values in handle.values.items():
        whole = expected[name].grad
        assert (values.grad - ops.gather(whole, values.entries)).abs().max() <= tolerance * whole.abs().max()
    for name, parameter in model.named_parameters():
        if name in handle.whole:
            assert (parameter.grad - expected[name].grad).abs().max() <= tolerance * expected[name].grad.abs().max()
        elif not isinstance(parameter, clm.Values):
            assert parameter.grad is None, name
