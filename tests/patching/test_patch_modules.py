"""Patching single modules: which ones make their compact gradient themselves, and which are refused."""

import copy

import pytest
import torch
import transformers as tf
from accelerate.hooks import ModelHook, add_hook_to_module
from gradients import assert_gradients_equal, backward, pair
from models import MORE_FAMILIES, build, entries
from torch import nn

import clm_kernels as clm
from clm_kernels.models.structure import depths, number_of_layers


class ThreeDimensional(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 4, 4))


class HasValues(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4))
        self.values = 7


def integer():
    linear = nn.Linear(4, 4)
    linear.weight = nn.Parameter(torch.ones(4, 4, dtype=torch.int8), requires_grad=False)
    return linear


def transposed():
    linear = nn.Linear(4, 4)
    linear.weight = nn.Parameter(torch.randn(4, 4).T)
    return linear


def parametrized():
    return nn.utils.parametrize.register_parametrization(nn.Linear(4, 4), "bias", nn.Identity())


def hooked():
    return add_hook_to_module(nn.Linear(4, 4), ModelHook())


REFUSED = {
    "'weight' must not be parametrized, got ParametrizedLinear": parametrized,
    "Embedding with max_norm": lambda: nn.Embedding(4, 4, max_norm=1.0),
    "Embedding with sparse=True": lambda: nn.Embedding(4, 4, sparse=True),
    r"must have shape \(4, 4\), got \(2, 4, 4\)": ThreeDimensional,
    "floating-point parameter, got Parameter of torch.int8": integer,
    "contiguous tensor in memory": transposed,
    "contiguous tensor in memory, got meta": lambda: nn.Linear(4, 4, device="meta"),
    "forward of Linear at 'weight' has been replaced": hooked,
    "attribute 'values', got HasValues": HasValues,
    "'weight' is not a weight of this model": nn.Identity,
    r"must have shape \(4, 4\), got \(5, 4\)": lambda: nn.Linear(4, 5),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_trained_in_part_is_refused_by_name(message):
    model = REFUSED[message]()
    before = type(model), list(model.__dict__), [(p.shape, p.requires_grad) for p in model.parameters()]
    with pytest.raises(ValueError, match=message):
        clm.patch(model, clm.Selection({"weight": entries((4, 4), "rows")}))
    assert (type(model), list(model.__dict__), [(p.shape, p.requires_grad) for p in model.parameters()]) == before


def test_patching_twice_and_an_unknown_head_are_refused():
    _, model, _ = pair()
    with pytest.raises(RuntimeError, match="patched already; call restore"):
        clm.patch(model, clm.Selection())
    with pytest.raises(ValueError, match="head must be names of the model's parameters, got 'nothing'"):
        clm.patch(build(), clm.Selection(), head=["nothing"])


def test_modules_that_read_the_weight_past_the_layer():
    """MultiheadAttention reads its output layer's weight itself, as DeBERTa does its relative embeddings'."""
    dense, model = (nn.MultiheadAttention(8, 2, batch_first=True) for _ in range(2))
    model.load_state_dict(dense.state_dict())
    chosen = {"out_proj.weight": entries((8, 8), "columns"), "in_proj_weight": entries((24, 8), "rows")}
    handle = clm.patch(model, clm.Selection(chosen), head=False)
    x = torch.randn(2, 3, 8)
    for trained in (dense, model):
        trained(x, x, x)[0].square().sum().backward()
    assert_gradients_equal(dense, model, handle)


@pytest.mark.parametrize("scale", [True, False])
def test_embedding_that_scales_its_gradient_by_frequency(scale):
    dense, model = (nn.Sequential(nn.Embedding(8, 4, scale_grad_by_freq=scale), nn.Linear(4, 2)) for _ in range(2))
    model.load_state_dict(dense.state_dict())
    handle = clm.patch(model, clm.Selection({"0.weight": entries((8, 4), "rows", 0.5)}), head=False)
    for trained in (dense, model):
        trained(torch.tensor([[0, 1, 1], [2, 3, 1]])).square().sum().backward()
    assert_gradients_equal(dense, model, handle)


def test_column_selection_keeps_only_the_selected_inputs():
    """Of an activation (T, 512) the graph keeps 8 columns; rows keep all of it."""
    kept = {}
    for kind in ("columns", "rows"):
        layer = nn.Linear(512, 16)
        clm.patch(layer, clm.Selection({"weight": clm.Entries.of(kind, range(8), (16, 512))}), head=False)
        kept[kind] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, sizes=kept[kind]: sizes.append(t.numel()) or t, lambda t: t):
            layer(torch.randn(64, 512)).sum().backward()
    assert max(kept["columns"]) == 64 * 8 and max(kept["rows"]) == 64 * 512


def twins(model, **chosen):
    """The same module unpatched and patched, with the given entries."""
    dense = copy.deepcopy(model)
    named = {name.replace("__", "."): value for name, value in chosen.items()}
    return dense, model, clm.patch(model, clm.Selection(named), head=False)


@pytest.mark.parametrize("shape", [(4,), (1, 4), (0, 4), (2, 0, 4), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_inputs_of_any_shape(shape, bias):
    dense, model, handle = twins(nn.Linear(4, 3, bias), weight=entries((3, 4)))
    x = torch.randn(shape)
    assert torch.equal(dense(x), model(x))
    for trained in (dense, model):
        trained(x).sum().backward()
    assert_gradients_equal(dense, model, handle)


def test_inputs_that_are_no_plain_tensors_in_a_row():
    dense, model, handle = twins(nn.Linear(4, 3), weight=entries((3, 4)))
    for x in (torch.randn(4, 5).T, torch.randn(1).expand(5, 4), torch.randn(3, 2, 8)[:, :, ::2].transpose(0, 1)):
        for trained in (dense, model):
            trained(x).square().sum().backward()
    assert_gradients_equal(dense, model, handle)


def test_input_gradients():
    dense, model, _ = pair()
    x = torch.randn(2, 5, 32)
    grads = [
        torch.autograd.grad(m(inputs_embeds=e).logits.sum(), e)[0] for m in (dense, model) for e in [x.clone().requires_grad_()]
    ]
    assert torch.equal(*grads)


@pytest.mark.parametrize("layer", [lambda: nn.Linear(4, 3), lambda: tf.pytorch_utils.Conv1D(3, 4), lambda: nn.Embedding(5, 3)])
def test_outputs_may_be_changed_in_place(layer):
    """As nn.ReLU(inplace=True) does, and DeBERTa, which adds its query bias."""
    first = layer()
    shape = tuple(first.weight.shape)
    dense, model, handle = twins(nn.Sequential(first, nn.ReLU(inplace=True)), **{"0__weight": entries(shape, "rows", 0.5)})
    x = torch.tensor([[[0, 1], [2, 3]]]) if isinstance(first, nn.Embedding) else torch.randn(2, 5, 4)
    for trained in (dense, model):
        trained(x).sum().backward()
    assert_gradients_equal(dense, model, handle)


def test_a_module_used_twice():
    layer = nn.Linear(4, 4)
    dense, model, handle = twins(nn.Sequential(layer, nn.Tanh(), layer), **{"2__weight": entries((4, 4))})
    for trained in (dense, model):
        trained(torch.ones(1, 4)).sum().backward()
    assert (handle.values["2.weight"].grad - dense[0].weight.grad[:, handle.selection["2.weight"].index]).abs().max() < 1e-6
    assert handle.delta().values.keys() == {"2.weight"}


def test_float64_is_left_alone_by_autocast():
    dense, model, _ = twins(nn.Linear(4, 3).double(), weight=entries((3, 4)))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model(x := torch.randn(2, 4).double()), dense(x)) and model(x).dtype == torch.float64


def test_training_with_another_optimizer_is_noticed():
    """It changes the values, and nothing would ever reach the model."""
    _, model, handle = pair()
    backward(model)
    torch.optim.AdamW(model.parameters()).step()
    with pytest.raises(RuntimeError, match="are not what the model holds; train with SparseAdamW"):
        handle.delta()


def test_a_diverged_model_still_gives_its_delta():
    _, model, handle = pair()
    optimizer = clm.SparseAdamW(model.parameters())
    backward(model)
    for values in handle.values.values():
        values.grad.fill_(torch.nan)
    optimizer.step()
    assert all(values.isnan().all() for values in handle.delta().values.values())


@pytest.mark.parametrize("kind", ["rows", "elements"])
@pytest.mark.parametrize("family", MORE_FAMILIES)
def test_families_with_peculiar_layers(family, kind):
    """Layers used by several depths, in-place sums on their outputs, weights read directly, linear layers of another class."""
    dense, model, handle = pair(family, kind=kind)
    assert torch.equal(backward(dense), backward(model))
    assert_gradients_equal(dense, model, handle)


def test_depths():
    """Below the layers, in them, above them; relative positions and tied weights count as low as what reads them."""
    bert, tied, deberta, mpnet = (
        depths(build()),
        depths(build("gpt2", "causal")),
        depths(build("deberta")),
        depths(build("mpnet")),
    )
    assert bert["bert.embeddings.word_embeddings.weight"] == -1 and bert["bert.encoder.layer.1.output.dense.bias"] == 1
    assert bert["bert.pooler.dense.weight"] == bert["classifier.bias"] == float("inf")
    assert tied["lm_head.weight"] == tied["transformer.wte.weight"] == -1 and tied["transformer.ln_f.weight"] == float("inf")
    assert deberta["deberta.encoder.rel_embeddings.weight"] == deberta["deberta.encoder.LayerNorm.weight"] == -1
    assert mpnet["mpnet.encoder.relative_attention_bias.weight"] == -1
    assert number_of_layers(build()) == 2 and number_of_layers(nn.Linear(2, 2)) == 0
