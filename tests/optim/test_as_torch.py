"""torch's own inputs and error inputs for AdamW (`torch.testing._internal.common_optimizers`), given to `SparseAdamW`."""

import copy

import pytest
import torch
from torch import nn

import clm_kernels as clm

pytest.importorskip("expecttest", reason="torch's own inputs for optimizers need expecttest")
from torch.testing._internal.common_optimizers import optim_db

INFO = next(info for info in optim_db if info.optim_cls is torch.optim.AdamW)
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")]),
]
ELSEWHERE = {"differentiable": "the step is a kernel: SparseAdamW refuses the flag by name, and torch's AdamW does it"}
# torch.optim's flags that choose an implementation: there is one here, and it is fused.
FLAGS = [{}, {"foreach": True}, {"fused": True}, {"foreach": False}, {"fused": False}]


def inputs(device):
    return [(given.desc, given.kwargs) for given in INFO.optim_inputs_func(device=device)]


def model(device, dtype=torch.float32):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 3)).to(device, dtype)
    net.slanted = nn.Parameter(torch.randn(3, 4, 2, device=device, dtype=dtype).transpose(0, 2))  # not contiguous
    net.scalar = nn.Parameter(torch.randn((), device=device, dtype=dtype))
    return net


def trained(net, optimizer, steps=5, schedulers=()):
    device, dtype = net.scalar.device, net.scalar.dtype
    for seed in range(steps):
        optimizer.zero_grad()
        x = torch.randn(4, 7, generator=torch.Generator().manual_seed(seed)).to(device, dtype)
        ((net(x).sum() + net.slanted.square().sum()) * net.scalar).backward()
        optimizer.step()
        for scheduler in schedulers:
            given = [optimizer.param_groups[0]["lr"]] if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau) else []
            scheduler.step(*given)
    return {name: parameter.detach() for name, parameter in net.named_parameters()}


def pair(device, kwargs, dtype=torch.float32, flags=None):
    """The same model twice, with torch's optimizer and with ours."""
    net = model(device, dtype)
    for make, own in ((torch.optim.AdamW, {}), (clm.SparseAdamW, flags or {})):
        twin = copy.deepcopy(net)
        yield twin, make(twin.parameters(), **copy.deepcopy(kwargs), **own)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_every_input_gives_what_torch_gives(device, dtype):
    for desc, kwargs in inputs(device):
        ours, theirs = (trained(*both) for both in pair(device, kwargs, dtype))
        torch.testing.assert_close(ours, theirs, msg=lambda text, desc=desc: f"{desc}: {text}")


@pytest.mark.parametrize("flags", FLAGS, ids=str)
def test_flags_that_choose_an_implementation_change_nothing(flags):
    results = [trained(*both) for both in pair("cpu", {"lr": 1e-2, "weight_decay": 0.1}, flags=flags)]
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("which", range(len(INFO.scheduler_inputs)))
def test_schedulers_drive_both_alike(which):
    makes = INFO.scheduler_inputs[which]
    results = []
    for net, optimizer in pair("cpu", {"lr": 1e-2}):
        results.append(trained(net, optimizer, schedulers=[make(optimizer) for make in makes]))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("lr", [float("inf"), torch.tensor(1e-2), torch.tensor([1e-2])], ids=str)
def test_rates_that_torch_takes_are_taken(lr):
    results = [trained(*both, steps=1) for both in pair("cpu", {"lr": lr})]
    torch.testing.assert_close(*results, equal_nan=True)


def test_betas_may_be_tensors():
    betas = torch.tensor(0.8), torch.tensor([[0.9]])
    results = [trained(*both) for both in pair("cpu", {"betas": betas})]
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("device", DEVICES)
def test_every_error_is_torch_s_in_type(device):
    """In words it is torch's, or the package's own form, which names the argument."""
    for error in INFO.optim_error_inputs_func(device=device, dtype=torch.float32):
        given = error.optimizer_error_input
        params = [nn.Parameter(torch.zeros(2, device=device))] if given.params is None else given.params
        if issubclass(error.error_type, Warning):
            with pytest.warns(error.error_type, match=error.error_regex):
                clm.SparseAdamW(params, **given.kwargs)
            continue
        with pytest.raises(error.error_type, match=rf"({error.error_regex})|^SparseAdamW: (lr|eps|weight_decay|betas|fused)"):
            clm.SparseAdamW(params, **given.kwargs)


@pytest.mark.parametrize(("arguments", "error"), [
    ({"fused": True, "foreach": True}, RuntimeError),
    ({"fused": True, "differentiable": True}, RuntimeError),
    ({"lr": "0.1"}, ValueError),
    ({"betas": (0.9, "0.99")}, ValueError),
    ({"betas": (0.9,)}, ValueError),
])  # fmt: skip
def test_what_torch_refuses_is_refused(arguments, error):
    with pytest.raises((error, TypeError, IndexError)):
        torch.optim.AdamW(model("cpu").parameters(), **arguments)
    with pytest.raises(error, match=r"^SparseAdamW: "):
        clm.SparseAdamW(model("cpu").parameters(), **arguments)


@pytest.mark.parametrize("flag", ELSEWHERE)
def test_what_is_left_to_torch_is_refused_by_name(flag):
    torch.optim.AdamW(model("cpu").parameters(), **{flag: True})
    with pytest.raises(ValueError, match=rf"SparseAdamW: {flag} must be False, got True; use torch.optim.AdamW for that"):
        clm.SparseAdamW(model("cpu").parameters(), **{flag: True})


def test_every_flag_of_torch_s_is_known_here():
    assert set(INFO.supported_impls) - {"foreach", "fused"} == set(ELSEWHERE)


def test_complex_parameters_are_refused():
    """torch takes them as pairs of real numbers; no weight of the models that this package is for is complex."""
    parameter = nn.Parameter(torch.ones(3, dtype=torch.complex64))
    parameter.grad = torch.ones_like(parameter)
    with pytest.raises(ValueError, match=r"values\[0\] must be float32, float64, bfloat16 or float16, got torch.complex64"):
        clm.SparseAdamW([parameter]).step()


def test_a_checkpoint_of_torch_s_goes_on_here():
    """Also of parameters that are not contiguous, whose moments torch keeps in the parameter's strides."""
    net, optimizer = next(iter(pair("cpu", {"lr": 1e-2})))
    trained(net, optimizer)
    twin = copy.deepcopy(net)
    ours = clm.SparseAdamW(twin.parameters(), lr=1e-2)
    ours.load_state_dict(optimizer.state_dict())
    torch.testing.assert_close(trained(twin, ours), trained(net, optimizer))
