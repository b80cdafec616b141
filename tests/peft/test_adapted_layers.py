"""Gradients of adapted layers against autograd's through the dense weight, and which layers are refused."""

import pytest
import torch
from models import build
from peft import get_peft_model
from peft_adapters import KINDS, config
from torch import nn
from transformers.pytorch_utils import Conv1D

from clm_kernels.peft import ClmConfig


class Net(nn.Module):
    """One layer of each kind."""

    def __init__(self):
        super().__init__()
        self.embed, self.linear, self.conv = nn.Embedding(16, 8, padding_idx=0), nn.Linear(8, 12), Conv1D(6, 12)

    def forward(self, ids):
        return self.conv(torch.tanh(self.linear(self.embed(ids))))


def net(*adapters):
    torch.manual_seed(0)
    made = get_peft_model(Net(), adapters[0])
    for number, each in enumerate(adapters[1:]):
        made.add_adapter(str(number), each)
    made.base_model.set_adapter(list(made.peft_config))
    return made


IDS = torch.randint(0, 16, (3, 5), generator=torch.Generator().manual_seed(1))


def dense_gradients(model):
    """Of the loss by each merged weight and bias, from a plain network that holds what the adapters write."""
    torch.manual_seed(0)
    plain = Net()
    for name in ("embed", "linear", "conv"):
        layer = getattr(model.get_base_model(), name)
        if hasattr(layer, "clm_values"):
            layer.merge()
            getattr(plain, name).load_state_dict(layer.base_layer.state_dict())
            layer.unmerge()
    plain(IDS).square().sum().backward()
    return plain


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("several", [False, True], ids=["one", "two adapters"])
def test_gradients_are_the_selected_part_of_dense_ones(kind, several):
    shared = {"kind": kind, "target_modules": ["linear", "conv"], "density": 0.4, "block": 2, "init_weights": False}
    rows = {"kind": "rows", "target_modules": ["embed", "linear", "conv"], "density": 0.4, "init_weights": False, "biases": True}
    model = net(ClmConfig(**shared), *([ClmConfig(**rows)] if several else []))
    out = model(IDS)
    out.square().sum().backward()
    plain = dense_gradients(model)
    torch.testing.assert_close(out, plain(IDS), rtol=1e-5, atol=1e-5)
    checked = 0
    for name in ("embed", "linear", "conv"):
        layer, other = getattr(model.get_base_model(), name), getattr(plain, name)
        for adapter, values in getattr(layer, "clm_values", {}).items():
            expected = other.weight.grad.flatten()[layer.entries(adapter).flat_index()]
            torch.testing.assert_close(values.grad, expected, rtol=1e-4, atol=1e-5)
            checked += 1
        for bias in getattr(layer, "clm_biases", {}).values():
            torch.testing.assert_close(bias.grad, other.bias.grad, rtol=1e-4, atol=1e-5)
        assert getattr(layer, "weight", None) is not None and layer.weight.grad is None
    assert checked == (5 if several else 2)


def test_gradients_under_autocast_are_near_those_in_float32():
    model = net(ClmConfig(kind="groups", target_modules=["linear", "conv"], density=0.5, init_weights=False))
    grads = []
    for enabled in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled):
            out = model(IDS)
        assert out.dtype == (torch.bfloat16 if enabled else torch.float32)
        out.float().square().sum().backward()
        grads.append([each.grad.clone() for each in model.parameters() if each.requires_grad])
    for exact, near in zip(*grads, strict=True):
        assert near.dtype == torch.float32
        torch.testing.assert_close(near, exact, rtol=0.1, atol=0.1 * float(exact.abs().max()))


def test_a_frozen_adapter_gets_no_gradient_and_passes_the_others_on():
    rows = ClmConfig(kind="rows", target_modules=["embed", "linear"], density=0.5, init_weights=False)
    model = net(rows, ClmConfig(kind="columns", target_modules=["linear"], density=0.5, init_weights=False))
    base = model.get_base_model()
    base.linear.set_requires_grad("default", False)
    model(IDS).square().sum().backward()
    assert base.linear.clm_values["default"].grad is None and base.embed.clm_values["default"].grad.any()
    expected = dense_gradients(model).linear.weight.grad.flatten()[base.linear.entries("0").flat_index()]
    torch.testing.assert_close(base.linear.clm_values["0"].grad, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "kind", "message"),
    [
        (nn.Conv1d(4, 4, 1), "groups", r"the target 'a' must be an nn.Linear, an nn.Embedding or .*, got Conv1d"),
        (nn.Embedding(4, 4), "columns", "the kind of entries of 'a' must be rows, as it is an embedding, got 'columns'"),
        (nn.Embedding(4, 4, max_norm=1.0), "rows", "the target 'a' must be an embedding without max_norm"),
        (nn.Embedding(4, 4, sparse=True), "rows", "the target 'a' must be"),
        (nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), "rows", "the target 'a' must be"),
        (nn.Linear(4, 4).to(torch.complex64), "rows", "the weight of 'a' must be a plain, contiguous floating-point parameter"),
    ],
    ids=["a convolution", "columns of an embedding", "max_norm", "sparse", "parametrized", "complex"],
)
def test_layers_that_are_refused(layer, kind, message):
    with pytest.raises(ValueError, match=f"ClmModel: {message}"):
        get_peft_model(nn.ModuleDict({"a": layer, "b": nn.Linear(4, 4)}), ClmConfig(target_modules=["a"], kind=kind))


def test_a_weight_that_others_read_is_refused():
    with pytest.raises(ValueError, match="must be a layer that is called, got one whose weight is read by others"):
        get_peft_model(nn.ModuleDict({"a": nn.MultiheadAttention(4, 2)}), ClmConfig(target_modules=["out_proj"]))


def test_blocks_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="block must divide the weight's shape"):
        get_peft_model(build(), config(kind="blocks", block=7))
