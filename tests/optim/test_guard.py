"""What may happen between two steps of `SparseAdamW`, whose arguments are collected once."""

import copy

import pytest
import torch
from torch import nn

import clm_kernels as clm


def patched(head=("1.weight", "1.bias")):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
    chosen = clm.Selection({"0.weight": clm.Entries.of("rows", [1, 5], (8, 8))})
    clm.patch(model, chosen, head=head)
    return model, clm.SparseAdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)


def descend(model, optimizer, skip=()):
    model(torch.arange(16.0).view(2, 8) / 16).square().sum().backward()
    for parameter in skip:
        parameter.grad = None
    optimizer.step()
    optimizer.zero_grad()


def replace_weights(model, optimizer):
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(state, assign=True)


def swap_storages(model, optimizer):
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()


def load_own_state(model, optimizer):
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def replace_groups(model, optimizer):
    optimizer.param_groups[:] = [dict(group) for group in optimizer.param_groups]


@pytest.mark.parametrize("event", [replace_weights, swap_storages, load_own_state, replace_groups])
def test_a_harmless_event_changes_nothing(event):
    """Replaced tensors with the same contents: the steps after it equal those of an undisturbed twin, bit for bit."""
    (model, optimizer), (twin, twin_optimizer) = patched(), patched()
    for step in range(4):
        if step == 2:
            event(model, optimizer)
            if event is replace_weights:  # whole parameters are new objects, which no optimizer can know
                optimizer = rebuilt(model, optimizer)
        descend(model, optimizer)
        descend(twin, twin_optimizer)
    for name, tensor in twin.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def rebuilt(model, optimizer):
    state = optimizer.state_dict()
    optimizer = clm.SparseAdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    optimizer.load_state_dict(state)
    return optimizer


def test_a_replaced_dense_weight_is_followed():
    model, optimizer = patched(head=())
    descend(model, optimizer)
    before = model[0].weight
    replace_weights(model, optimizer)
    old = before.detach().clone()
    descend(model, optimizer)
    assert model[0].weight is not before
    assert torch.equal(before, old)
    assert torch.equal(model[0].weight[[1, 5]], model[0].values)
    assert not torch.equal(model[0].weight, old)


def test_parameters_without_a_gradient_rest_and_come_back():
    models = [nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4)) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    optimizers = [clm.SparseAdamW(models[0].parameters(), lr=1e-2), torch.optim.AdamW(models[1].parameters(), lr=1e-2)]
    for step in range(4):
        for model, optimizer in zip(models, optimizers, strict=True):
            descend(model, optimizer, skip=[model[1].bias] if step == 1 else [])
    torch.testing.assert_close(*(list(model.parameters()) for model in models))
    assert optimizers[0].state[models[0][1].bias]["step"].item() == 3


def test_settings_are_read_at_every_step():
    model, optimizer = patched()
    descend(model, optimizer)
    before = copy.deepcopy(model.state_dict())
    optimizer.param_groups[0]["lr"] = 0.0
    descend(model, optimizer)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
