"""The CUDA kernels on a GPU, against the reference."""

import pytest
import torch
from cuda_parameters import LOW, SHAPES, VARIANTS, aligned, check_step, grads, parameter, plan, settings, widened
from oracles import DTYPES, KINDS, assert_same_bits, entries_of, pick, place
from tolerances import assert_close

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


@on_dtypes
def test_global_norm(dtype):
    gradients = [aligned(torch.randn(n).to(dtype), n % 3) for n in (1, 7, 1024, 1025, 0, 100_003)]
    norm = cuda.global_norm(gradients)
    assert_close(norm, torch.cat([grad.double() for grad in gradients]).norm())
    norms = cuda.NormPlan(gradients)
    for _ in range(5):
        assert_same_bits(norms(gradients), norm)
    assert norms([torch.zeros_like(grad) for grad in gradients]) == 0


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
        table, gradients, before = settings(mine, step), grads(mine, options.get("offset", 0)), [t[6].clone() for t, _ in mine]
        original = [grad.clone() for grad in gradients]
        scale, clip = (torch.tensor(4.0), torch.tensor(0.5)) if step == 2 else (None, None)
        plans[0](gradients, table, scale, torch.tensor(0.0), clip)
        plans[1]([grad.to(t[0].dtype) * (clip or 1.0) for grad, (t, _) in zip(gradients, truth, strict=True)], table)
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
        results.append([tensors[0] for tensors, _ in mine])
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
        before = [t[6].clone() for t, _ in mine]
        table.copy_(now)
        run()
        oracle([grad.to(t[0].dtype) for grad, (t, _) in zip(gradients, truth, strict=True)], now)
        check_step(mine, truth, before)

    check(lambda: step(gradients, table), settings(mine, 1))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(gradients, table)
    for i in (2, 3):
        check(graph.replay, settings(mine, i))
    with pytest.raises(RuntimeError, match="settings must be on the GPU"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        step(gradients, settings(mine))
