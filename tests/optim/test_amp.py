"""`SparseAdamW` under `GradScaler`, `capturable` and `torch.compile`: what a GPU asks for, on the CPU."""

import copy
import warnings

import pytest
import torch
from models import batch, bits, build, entries, same, select
from optimizers import ARGUMENTS, LOW, descend, layers, patched
from torch import nn
from torch.amp import GradScaler
from torch.utils._python_dispatch import TorchDispatchMode

import clm_kernels as clm

OVERFLOWS = (0, 3)  # steps whose gradients are not finite
SCALE = 1024.0


def descend_scaled(model, optimizer, steps=6, clip=None, scaler=None):
    """Steps under a loss scale, two of which overflow; returns the scales."""
    scaler = scaler or GradScaler("cpu", init_scale=SCALE, growth_interval=2)
    random, scales = torch.Generator().manual_seed(0), []
    dtype = next(model.parameters()).dtype
    for step in range(steps):
        x = torch.randn(5, 12, generator=random, dtype=torch.float64).to(dtype)
        loss = model(x).square().mean() * (float("inf") if step in OVERFLOWS else 1.0)
        scaler.scale(loss).backward()
        if clip:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        scales.append(scaler.get_scale())
    return scales


def counts(optimizer):
    return {int(state["step"]) for state in optimizer.state.values()}


@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize("options", [{}, {"capturable": True}, {"fused": False}], ids=str)
def test_equals_adamw_under_the_same_scaler(options, clip):
    dense, (model, _) = layers(), patched("columns")
    theirs = torch.optim.AdamW(dense.parameters(), lr=1e-2)
    expected = descend_scaled(dense, theirs, clip=clip)
    ours = clm.SparseAdamW(model.parameters(), lr=1e-2, **options)
    assert descend_scaled(model, ours, clip=clip) == expected
    torch.testing.assert_close(bits(model), bits(dense), rtol=1e-8, atol=1e-10)
    assert counts(ours) == counts(theirs) == {6 - len(OVERFLOWS)}


@pytest.mark.parametrize("dtype", [torch.float32, *LOW], ids=str)
@pytest.mark.parametrize("capturable", [False, True])
def test_an_overflow_changes_nothing(dtype, capturable):
    model, _ = patched("elements", dtype, density=0.3)
    optimizer = clm.SparseAdamW(model.parameters(), lr=1e-2, amsgrad=True, capturable=capturable)
    scaler = GradScaler("cpu", init_scale=8.0)
    for good in (True, False):
        before = bits(model), copy.deepcopy(list(optimizer.state.values()))
        scaler.scale(model(torch.ones(1, 12, dtype=dtype)).sum() * (1.0 if good else float("nan"))).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    assert same(bits(model), before[0])
    for state, was in zip(optimizer.state.values(), before[1], strict=True):
        assert same(state, was) and state["step"] == 1
    assert scaler.get_scale() == 4.0


def test_one_scaler_for_two_optimizers_skips_the_one_that_overflows():
    models = [layers(), layers()]
    optimizers = [clm.SparseAdamW(model.parameters(), lr=1e-2) for model in models]
    before, scaler = bits(models[0]), GradScaler("cpu", init_scale=SCALE)
    for factor, model in zip((1.0, float("inf")), models, strict=True):
        scaler.scale(model(torch.ones(1, 12, dtype=torch.float64)).sum() * factor).backward()
    for optimizer in optimizers:
        scaler.step(optimizer)
    scaler.update()
    assert counts(optimizers[0]) == {1} and counts(optimizers[1]) == {0}
    assert not same(bits(models[0]), before) and same(bits(models[1]), before)
    assert not hasattr(optimizers[0], "found_inf") and scaler.get_scale() == SCALE / 2


def test_float16_weights_need_no_float32_gradients():
    """GradScaler cannot unscale float16 gradients itself; the step can, and keeps small ones alive until then."""
    (model, _), (twin, _) = patched("rows", torch.float16), patched("rows", torch.float16)
    descend_scaled(model, clm.SparseAdamW(model.parameters(), lr=1e-2))
    unable = clm.SparseAdamW(twin.parameters(), lr=1e-2, fused=False)
    with pytest.raises(ValueError, match="Attempting to unscale FP16 gradients"):
        descend_scaled(twin, unable)
    reference, _ = patched("rows", torch.float32)
    descend_scaled(reference, clm.SparseAdamW(reference.parameters(), lr=1e-2))
    for name, tensor in bits(model).items():
        torch.testing.assert_close(tensor.float(), bits(reference)[name], rtol=0.02, atol=0.01)


@pytest.mark.parametrize("clip", [None, 0.05])
def test_selection_on_an_unpatched_model_under_a_scaler(clip):
    """Compact gradients keep the loss scale, and an overflow, until the scaler has seen them."""
    weights = []
    for patch in (True, False):
        model = build("bert")
        chosen = select(model, "elements")
        if patch:
            clm.patch(model, chosen, biases=True, norms=True)
            optimizer = clm.SparseAdamW(model.parameters(), lr=1e-2)
        else:
            optimizer = clm.SparseAdamW(model.named_parameters(), lr=1e-2, selection=chosen)
        scaler, scales = GradScaler("cpu", init_scale=SCALE), []
        for step in range(5):
            for micro in range(2):
                bad = step in OVERFLOWS and micro == 1
                loss = model(**batch(model, seed=2 * step + micro)).loss * (float("inf") if bad else 1.0)
                scaler.scale(loss).backward()
            if clip:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            scales.append(scaler.get_scale())
        assert scales == [512, 512, 512, 256, 256] and counts(optimizer) == {3}
        weights.append(bits(model))
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-5)


def test_an_overflow_that_only_a_gathered_gradient_shows():
    """In the first of two micro-batches; finite sums after it must not hide it."""
    model = layers()
    chosen = clm.Selection({"0.weight": entries((8, 12))})
    optimizer = clm.SparseAdamW([("0.weight", model[0].weight)], lr=1e-2, selection=chosen)
    scaler, before = GradScaler("cpu", init_scale=SCALE), bits(model)
    for factor in (float("inf"), 1.0):
        scaler.scale(model(torch.ones(1, 12, dtype=torch.float64)).sum() * factor).backward()
    scaler.step(optimizer)
    scaler.update()
    assert same(bits(model), before) and counts(optimizer) == {0} and scaler.get_scale() == SCALE / 2


CHANGES = {
    "cosine": torch.optim.lr_scheduler.CosineAnnealingLR,
    "one cycle": lambda optimizer, steps: torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, steps),  # momentum too
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, *LOW], ids=str)
@pytest.mark.parametrize("name", ARGUMENTS)
def test_capturable_gives_the_same_bits(name, dtype):
    results = []
    for capturable in (False, True):
        model, _ = patched("blocks", dtype)
        optimizer = clm.SparseAdamW(model.parameters(), **copy.deepcopy(ARGUMENTS[name]), capturable=capturable)
        descend(model, optimizer, 20)
        results.append(bits(model))
    assert same(*results)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("lr", [1e-2, torch.tensor(1e-2), torch.tensor([1e-2], dtype=torch.float64)], ids=str)
def test_capturable_follows_schedulers_and_groups(lr, change):
    results = []
    for capturable in (False, True):
        model, _ = patched("rows", torch.float32)
        inner, outer = [[p for n, p in model.named_parameters() if (n[0] == "0") == first] for first in (True, False)]
        groups = [{"params": inner, "weight_decay": 0.5, "lr": copy.deepcopy(lr) / 2}, {"params": outer, "betas": (0.8, 0.9)}]
        optimizer = clm.SparseAdamW(groups, lr=copy.deepcopy(lr), capturable=capturable)
        descend(model, optimizer, 20, CHANGES[change](optimizer, 40))
        results.append(bits(model))
    assert same(*results)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("loaded", [False, True])
def test_a_state_continues_in_either_mode(saved, loaded, dtype):
    (model, _), (twin, _) = patched("columns", dtype), patched("columns", dtype)
    optimizer = clm.SparseAdamW(model.parameters(), lr=1e-2, capturable=saved)
    descend(model, optimizer, 3)
    twin.load_state_dict(model.state_dict())
    other = clm.SparseAdamW(twin.parameters(), lr=1e-2, capturable=loaded)
    descend(twin, other, 1)  # it must forget what it has collected
    twin.load_state_dict(model.state_dict())
    other.load_state_dict(optimizer.state_dict())  # a copy: the two go on apart
    assert [group["capturable"] for group in other.param_groups] == [loaded]
    descend(model, optimizer, 4)
    descend(twin, other, 4)
    assert same(bits(model), bits(twin)) and counts(other) == counts(optimizer) != {4}


@pytest.mark.parametrize("capturable", [False, True])
def test_torchs_adamw_takes_the_state(capturable):
    ours, theirs = layers(), layers()
    optimizer = clm.SparseAdamW(ours.parameters(), lr=1e-2, capturable=capturable)
    descend(ours, optimizer, 3)
    theirs.load_state_dict(ours.state_dict())
    other = torch.optim.AdamW(theirs.parameters(), lr=1e-2)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    other.param_groups[0]["capturable"] = False  # on the CPU torch has no other
    descend(ours, optimizer, 3)
    descend(theirs, other, 3)
    torch.testing.assert_close(bits(ours), bits(theirs), rtol=1e-8, atol=1e-10)


class NothingIsRead(TorchDispatchMode):
    """Fails where the host asks for the contents of a tensor: on a GPU it would wait."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "equal", "is_nonzero", "nonzero"), name
        return function(*args, **kwargs or {})


@pytest.mark.parametrize("name", ["scaled", "capturable", "both"])
def test_a_step_asks_the_gpu_for_nothing(name):
    """All of the step but the kernel, which cannot run here; masters of which somebody has written some entries too."""
    model, handle = patched("rows", torch.bfloat16)
    optimizer = clm.SparseAdamW(model.parameters(), lr=torch.tensor(1e-2), capturable=name != "scaled")
    descend(model, optimizer, 2)
    for step in optimizer._batches:
        step.plans = dict.fromkeys(step.plans, lambda *args: ran.append(args))
    ran, before = [], counts(optimizer)
    model(torch.ones(1, 12, dtype=torch.bfloat16)).sum().backward()
    with torch.no_grad():
        handle.values["0.weight"][0] = 1.0
    if name != "capturable":
        optimizer.grad_scale, optimizer.found_inf = torch.tensor(2.0), torch.tensor(2.0)  # two devices have overflowed
    with NothingIsRead():
        optimizer.step()
    assert len(ran) == 1 and ran[0][2:] == ((None, None) if name == "capturable" else (optimizer.grad_scale, optimizer.found_inf))
    assert counts(optimizer) == ({n + 1 for n in before} if name == "capturable" else before)


def test_a_capture_of_a_step_that_is_not_capturable_is_refused(monkeypatch):
    monkeypatch.setattr("clm_kernels.optim.capturing", lambda: True)
    model = layers()
    model(torch.ones(1, 12, dtype=torch.float64)).sum().backward()
    optimizer = clm.SparseAdamW(model.parameters())
    with pytest.raises(RuntimeError, match="capturable must be True while a CUDA graph is captured, got False"):
        optimizer.step()
    monkeypatch.undo()
    optimizer.step()
    optimizer.param_groups[0]["capturable"] = True
    optimizer.step()
    assert [batch.capturable for batch in optimizer._batches] == [True] and counts(optimizer) == {2}


def test_numbers_that_a_graph_has_written_are_written_again(monkeypatch):
    """A replay brings back the rate of its capture; a step outside of the graph must not take it for its own."""
    model = layers()
    optimizer = clm.SparseAdamW(model.parameters(), lr=0.1, capturable=True)
    descend(model, optimizer, 1)
    settings = optimizer._batches[0].settings
    with monkeypatch.context() as patch:
        patch.setattr("clm_kernels.optim.settings.capturing", lambda: True)
        optimizer.param_groups[0]["lr"] = 0.2
        captured = settings.next()[:, 0].clone()
    optimizer.param_groups[0]["lr"] = 0.3
    for _ in range(2):
        assert settings.next()[0, 0] == 0.3
        settings.table[:, 0] = captured  # what a replay does


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_compiled_function_may_step(dtype, capturable):
    torch._dynamo.reset()
    results = []
    for compiled in (False, True):
        model, _ = patched("rows", dtype)
        optimizer = clm.SparseAdamW(model.parameters(), lr=torch.tensor(1e-2), capturable=capturable)

        def train(x, model=model, optimizer=optimizer):
            model(x).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()

        run = torch.compile(train, backend="eager") if compiled else train
        for step in range(3):
            optimizer.param_groups[0]["lr"].mul_(0.5)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # dynamo's, of what it does not trace
                run(torch.full((2, 12), 1.0 + step, dtype=dtype))
        results.append(bits(model))
        assert counts(optimizer) == {3}
    assert same(*results)


def test_entries_that_nobody_has_written_keep_their_masters():
    """A master holds more than its rounded value; only what differs from that is read anew."""
    model, handle = patched("rows", torch.bfloat16)
    optimizer = clm.SparseAdamW(model.parameters(), lr=0.0, weight_decay=0.0)
    values = handle.values["0.weight"]
    descend(model, optimizer, 1)
    master = optimizer.state[values]["master"]
    master += 2.0**-16 * master.abs()  # less than a rounding of bf16
    kept = master.clone()
    with torch.no_grad():
        values[0] = 3.0
    descend(model, optimizer, 1)
    assert torch.equal(master[1:], kept[1:]) and not torch.equal(master[1:], values[1:].float())
    assert (master[0] == 3.0).all()
