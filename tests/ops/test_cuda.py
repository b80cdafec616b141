"""The CUDA kernels on a GPU, against the reference."""

import pytest
import torch
from cuda_parameters import LOW, SHAPES, VARIANTS, aligned, check_step, grads, parameter, plan, settings, widened
from oracles import DTYPES, KINDS, assert_same_bits, entries_of, pick, place
from tolerances import assert_close
from torch import nn

import clm_kernels as clm
from clm_kernels.ops import reference

try:
    from clm_kernels.ops import cuda
except ImportError as error:
    pytest.skip(str(error), allow_module_level=True)

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")]
on_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
on_kinds = pytest.mark.parametrize("kind", KINDS)
on_sizes = pytest.mark.parametrize("size", SHAPES)


@pytest.fixture(autouse=True)
def _on_the_gpu():
    with torch.device("cuda"):
        yield


def _parameters(dtype, size, **options):
    return [parameter(kind, dtype, *SHAPES[size], **options) for kind in (*KINDS, "dense")]


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("which", ["none", "some", "all"])
@on_sizes
@on_kinds
@on_dtypes
def test_movement(dtype, kind, size, which, offset):
    shape, block = SHAPES[size]
    dense, entries = aligned(torch.randn(shape).to(dtype), offset), entries_of(kind, shape, which, block)
    assert_same_bits(cuda.gather(dense, entries.index, entries.layout), pick(dense, entries))
    values = torch.randn(entries.compact_shape).to(dtype)
    expected, version = place(dense, entries, values), dense._version
    cuda.scatter_(dense, entries.index, entries.layout, values)
    assert_same_bits(dense, expected)
    assert dense._version > version


@pytest.mark.parametrize("bad", [None, float("inf"), float("nan")])
@on_kinds
@on_dtypes
def test_masked_grad(dtype, kind, bad):
    shape, block = SHAPES["odd"]
    entries = entries_of(kind, shape, "some", block)
    dense_grad, grad = torch.randn(shape).to(dtype), torch.randn(entries.compact_shape)
    flat = entries.layout.flat_index(entries.index).flatten()
    if bad:
        dense_grad.view(-1)[flat[-1]] = bad
    dense_grad.view(-1)[~torch.isin(torch.arange(dense_grad.numel()), flat)] = float("nan")  # not selected: not read
    expected = grad.clone()
    found = reference.masked_grad_(expected, dense_grad, entries.index, entries.layout, 0.3)
    assert torch.equal(cuda.masked_grad_(grad, dense_grad, entries.index, entries.layout, 0.3), found)
    assert_close(grad, expected)


@pytest.mark.parametrize("variant", VARIANTS)
@on_sizes
@on_dtypes
def test_adamw(dtype, size, variant):
    options = VARIANTS[variant]
    amsgrad, maximize = options.get("amsgrad", False), variant == "all options"
    mine = _parameters(dtype, size, **options)
    truth = widened(mine)
    plans = plan(cuda.AdamWPlan, mine, amsgrad, maximize), plan(reference.AdamWPlan, truth, amsgrad, maximize)
    for step in range(1, 4):
        table, gradients, before = (
            settings(mine, step),
            grads(mine, options.get("offset", 0)),
            [t.denses.clone() for t, _ in mine],
        )
        original = [grad.clone() for grad in gradients]
        scale, clip = (torch.tensor(4.0), torch.tensor(0.5)) if step == 2 else (None, None)
        plans[0](gradients, table, scale, torch.tensor(0.0), clip)
        plans[1]([grad.to(t.values.dtype) * (clip or 1.0) for grad, (t, _) in zip(gradients, truth, strict=True)], table)
        check_step(mine, truth, before)
        for grad, was in zip(gradients, original, strict=True):
            assert_same_bits(grad, was / (scale or 1.0))


def test_found_inf_leaves_everything():
    mine = _parameters(torch.bfloat16, "even", amsgrad=True)
    gradients = grads(mine)
    before = [[t.clone() for t in tensors] for tensors, _ in mine]
    plan(cuda.AdamWPlan, mine, True)(gradients, settings(mine), torch.tensor(2.0), torch.tensor(1.0))
    for (tensors, _), copies in zip(mine, before, strict=True):
        for tensor, copy in zip(tensors[:7], copies[:7], strict=True):
            assert_same_bits(tensor, copy)


def test_many_steps_in_flight_use_their_own_settings():
    """The host runs ahead of the GPU: what it uploads must not change under a step that is still to run."""
    results = []
    for wait in (False, True):
        torch.manual_seed(0)
        mine = _parameters(torch.float32, "long")
        step, gradients = plan(cuda.AdamWPlan, mine), grads(mine)
        for i in range(200):
            step(gradients, settings(mine, i + 1.0) * (1 + i % 3))
            if wait:
                torch.cuda.synchronize()
        results.append([tensors.values for tensors, _ in mine])
    for ahead, waited in zip(*results, strict=True):
        assert_same_bits(ahead, waited)


@pytest.mark.parametrize("dtype", [torch.float32, *LOW])
def test_a_cuda_graph_replays_with_new_settings(dtype):
    torch.manual_seed(0)
    mine = _parameters(dtype, "long")
    truth = widened(mine)
    step, oracle, gradients = plan(cuda.AdamWPlan, mine), plan(reference.AdamWPlan, truth), grads(mine)
    table = settings(mine, 1).cuda()

    def check(run, now):
        before = [t.denses.clone() for t, _ in mine]
        table.copy_(now)
        run()
        oracle([grad.to(t.values.dtype) for grad, (t, _) in zip(gradients, truth, strict=True)], now)
        check_step(mine, truth, before)

    check(lambda: step(gradients, table), settings(mine, 1))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(gradients, table)
    for i in (2, 3):
        check(graph.replay, settings(mine, i))
    with pytest.raises(RuntimeError, match="settings must be on the GPU"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        step(gradients, settings(mine))


def _model_and_optimizer(dtype=torch.float32, **options):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(40, 16), nn.Tanh(), nn.Linear(16, 8)).to(dtype)
    clm.patch(
        model, clm.Selection({"0.weight": clm.Entries.everything("rows", (16, 40))}), biases=True, head=["2.weight", "2.bias"]
    )
    return model, clm.SparseAdamW([p for p in model.parameters() if p.requires_grad], **options)


def _state(model, optimizer):
    return [*model.state_dict().values(), *(tensor.cpu() for state in optimizer.state.values() for tensor in state.values())]


@pytest.mark.parametrize("dtype", [torch.float32, *LOW])
def test_a_graph_of_an_optimizers_step_counts_and_follows_the_scheduler(dtype):
    """Steps one by one with counters on the host, on the GPU, and replays: the same bits."""
    results = []
    for capturable, graphed in ((False, False), (True, False), (True, True)):
        model, optimizer = _model_and_optimizer(dtype, lr=torch.tensor(1e-2), capturable=capturable)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
        parameters, graph = optimizer.param_groups[0]["params"], torch.cuda.CUDAGraph()
        for p in parameters:
            p.grad = torch.empty_like(p)
        for step in range(8):
            torch.manual_seed(step)
            for p in parameters:
                p.grad.normal_()
            if graphed and step == 3:
                with torch.cuda.graph(graph):
                    optimizer.step()
            if graphed and step >= 3:
                graph.replay()
            else:
                optimizer.step()
            scheduler.step()
        assert all(state["step"] == 8 for state in optimizer.state.values())
        results.append(_state(model, optimizer))
    for result in results[1:]:
        for tensor, expected in zip(result, results[0], strict=True):
            assert_same_bits(tensor, expected)


def test_a_graph_of_a_whole_training_step():
    """Forward, backward and step; gradients keep their place."""
    x = torch.randn(4, 40)
    results = []
    for graphed in (False, True):
        model, optimizer = _model_and_optimizer(lr=torch.tensor(1e-2), capturable=True)

        def train(model=model, optimizer=optimizer):
            model(x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)

        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                train()
        torch.cuda.current_stream().wait_stream(side)
        if graphed:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                train()
        for _ in range(3):
            graph.replay() if graphed else train()
        assert all(state["step"] == 6 for state in optimizer.state.values())
        results.append(list(model.state_dict().values()))
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-4)


def test_a_graph_needs_a_capturable_optimizer():
    model, optimizer = _model_and_optimizer()
    model(torch.randn(4, 40)).sum().backward()
    with pytest.raises(RuntimeError, match="capturable must be True"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        optimizer.step()


@pytest.mark.parametrize("capturable", [False, True])
def test_grad_scaler(capturable):
    """Two of the steps overflow; the host waits for nothing once plans and tables are made."""
    model, optimizer = _model_and_optimizer(lr=1e-2, capturable=capturable)
    torch.manual_seed(1)
    dense = nn.Sequential(nn.Linear(40, 16), nn.Tanh(), nn.Linear(16, 8))
    other = torch.optim.AdamW(dense.parameters(), lr=1e-2, fused=True)
    for network, steps in ((model, optimizer), (dense, other)):
        torch.manual_seed(2)
        scaler = torch.amp.GradScaler("cuda", init_scale=1024.0)
        for step in range(8):
            scaler.scale(network(torch.randn(4, 40)).square().mean() * (float("inf") if step in (0, 5) else 1.0)).backward()
            torch.cuda.set_sync_debug_mode("error" if step > 2 else "default")
            try:
                scaler.step(steps)
            finally:
                torch.cuda.set_sync_debug_mode("default")
            scaler.update()
            steps.zero_grad()
        assert scaler.get_scale() == 256.0 and all(state["step"] == 6 for state in steps.state.values())
        network(torch.ones(4, 40)).square().mean().backward()  # and one without: counters go where they are needed
        steps.step()
        assert all(state["step"] == 7 for state in steps.state.values())
    for name, tensor in dense.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("capturable", [False, True])
def test_a_state_continues_in_the_other_mode(capturable, dtype):
    def train(model, optimizer, seed):
        for step in range(3):
            torch.manual_seed(seed + step)
            for p in optimizer.param_groups[0]["params"]:
                p.grad = torch.randn_like(p)
            optimizer.step()

    model, optimizer = _model_and_optimizer(dtype, capturable=capturable)
    train(model, optimizer, 0)
    twin, loaded = _model_and_optimizer(dtype, capturable=not capturable)
    twin.load_state_dict(model.state_dict())
    loaded.load_state_dict(optimizer.state_dict())
    train(model, optimizer, 3)
    train(twin, loaded, 3)
    for tensor, expected in zip(_state(twin, loaded), _state(model, optimizer), strict=True):
        assert_same_bits(tensor, expected)
