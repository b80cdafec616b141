"""Gradient checkpointing: the same bits, fewer bytes kept, and no step of it below what is trained."""

from dataclasses import replace

import pytest
import torch
from models import batch, build, same
from tiny_runs import assert_same, silent, trained_tensors
from torch.autograd.graph import saved_tensors_hooks

import clm_kernels as clm
from clm_kernels.finetune import fitting, train
from clm_kernels.models.recomputing import check_checkpointing, checkpoint_layers, recompute_norms
from clm_kernels.models.structure import base_model
from clm_kernels.selecting.units.control import random_selection

FAMILIES = ("bert", "llama", "gpt2", "modernbert")


def _layers(model):
    """The list of layers that the base model holds."""
    return max((m for m in base_model(model).modules() if isinstance(m, torch.nn.ModuleList)), key=len)


def _count(model, inputs):
    """How often each layer runs in a step, and how often a gradient comes to its output."""
    forward, backward = ([0] * len(_layers(model)) for _ in range(2))
    hooks = []
    for i, layer in enumerate(_layers(model)):

        def runs(module, args, i=i):
            forward[i] += 1

        def ran(module, args, output, i=i):
            hidden = output[0] if isinstance(output, tuple) else output
            if hidden.requires_grad:
                hidden.register_hook(lambda _: backward.__setitem__(i, backward[i] + 1))

        inside = next(
            m for m in layer.modules() if getattr(m, "weight", torch.empty(0)).dim() == 2
        )  # a layer's own hooks run once
        hooks += [inside.register_forward_pre_hook(runs), layer.register_forward_hook(ran)]
    loss = model(**inputs).loss
    loss.backward()
    for hook in hooks:
        hook.remove()
    return forward, backward


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_below_what_is_trained_runs_backward_or_again(family):
    model = build(family, num_hidden_layers=4) if family != "gpt2" else build(family, n_layer=4)
    clm.patch(model, random_selection(model, density=0.2, layers="upper half"))
    checkpoint_layers(model)
    forward, backward = _count(model, batch(model))
    assert forward == [1, 1, 2, 2]
    assert backward == [0, 0, 1, 1]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layers", ["all", "upper half"])
def test_gradients_are_the_same_bits(family, layers):
    found = []
    for checkpointing in (False, True):
        model = build(family, dropout=0.1)
        clm.patch(model, random_selection(model, density=0.2, layers=layers), biases=True, norms=True)
        if checkpointing:
            checkpoint_layers(model)
        torch.manual_seed(1)
        model(**batch(model)).loss.backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert found[0] and same(*found)


def test_it_keeps_the_layers_inputs_alone():
    kept = {}
    for checkpointing in (False, True):
        model = build("bert", num_hidden_layers=4)
        if checkpointing:
            checkpoint_layers(model)
        sizes = {}

        def pack(tensor, sizes=sizes):
            sizes[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
            return tensor

        with saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = model(**batch(model, 16, 16)).loss
        kept[checkpointing] = sum(sizes.values())
        del loss
    assert kept[True] < 0.6 * kept[False]


def _kept(model, inputs):
    """Bytes that the forward pass leaves for the backward pass, the weights aside."""
    own, sizes = {p.untyped_storage()._cdata for p in model.parameters()}, {}

    def pack(tensor):
        sizes[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(**inputs).loss  # while it lives, no storage is counted twice
    kept = sum(size for storage, size in sizes.items() if storage not in own)
    del loss
    return kept


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3", "mistral"])
def test_norms_computed_again_give_the_same_bits_and_keep_less(family):
    found, kept = [], []
    for again in (False, True):
        model = build(family, num_hidden_layers=4, dtype=torch.bfloat16)
        clm.patch(model, random_selection(model, density=0.1), norms=True)
        if again:
            assert len(recompute_norms(model).norms) >= 9  # two a layer, and the last
        kept.append(_kept(model, batch(model, 8, 16)))
        model(**batch(model)).loss.backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert found[0] and same(*found)
    assert kept[1] < 0.9 * kept[0]


def test_fused_norms_are_left_alone(base, tmp_path):
    model = build("bert")
    assert not recompute_norms(model).norms and not any("forward" in module.__dict__ for module in model.modules())
    said = []
    train(replace(base, recompute_norms=True, epochs=1, output=str(tmp_path / "o")), said.append)
    assert any(line.startswith("recompute_norms changes nothing") for line in said)


@pytest.mark.parametrize("method", ["sparse", "full"])
def test_a_run_ends_with_the_same_bits(base, tmp_path, method, monkeypatch):
    asked = []
    monkeypatch.setattr(fitting, "checkpoint_layers", lambda model: (asked.append(model), checkpoint_layers(model)))
    runs = []
    for checkpointing in (False, True):
        output = str(tmp_path / f"{checkpointing}")
        config = replace(base, layers="upper half").replace(method=method, gradient_checkpointing=checkpointing, epochs=1)
        report = train(config.replace(output=output), silent)
        runs.append((report.best, report.test, output))
        assert len(asked) == checkpointing
    assert runs[0][:2] == runs[1][:2]
    if method == "sparse":
        assert_same(*(trained_tensors(output) for *_, output in runs))


def test_a_class_that_cannot_is_refused():
    model = build("bert")
    model.supports_gradient_checkpointing = False
    expected = "must be of a class that supports gradient checkpointing, got BertForSequenceClassification"
    with pytest.raises(ValueError, match=f"^train: model {expected}$"):
        check_checkpointing("train", model)
    with pytest.raises(ValueError, match=f"^checkpoint_layers: model {expected}$"):
        checkpoint_layers(model)
