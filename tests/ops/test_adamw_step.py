"""`adamw_step_` on every implementation, against torch.optim.AdamW on the dense tensors."""

from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import DTYPES, KINDS, assert_same_bits, entries_of, framed, pick, place
from tolerances import TOLERANCES, assert_close

from clm_kernels import ops

LOW = (torch.bfloat16, torch.float16)
DENSE_LAYOUT = (4, 0, 0, 0, 0)
SHAPE, BLOCK = (15, 34), (5, 17)
VARIANTS = {
    "plain": {},
    "amsgrad": {"amsgrad": True},
    "maximize": {"maximize": True},
    "anchors": {"anchored": True},
    "no decay": {"weight_decay": 0.0},
    "all at once": {"amsgrad": True, "maximize": True, "anchored": True},
}
on_layouts = pytest.mark.parametrize("kind", [*KINDS, "dense"])
on_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))


@dataclass
class Parameter:
    """One parameter's tensors, each inside sentinels, beside the dense float tensor that torch's AdamW trains."""

    kind: str = "rows"
    dtype: torch.dtype = torch.float32
    which: str = "some"
    shape: tuple[int, ...] = SHAPE
    amsgrad: bool = False
    maximize: bool = False
    anchored: bool = False
    master: bool = False
    lr: float = 1e-2
    weight_decay: float = 0.1
    beta2: float = 0.99
    scale: float = 1.0
    moment_dtype: torch.dtype | None = None
    checks: list = field(default_factory=list)

    def __post_init__(self):
        self.entries = None if self.kind == "dense" else entries_of(self.kind, self.shape, self.which, BLOCK)
        self.original = (self.scale * torch.randn(self.shape)).to(self.dtype)
        wide = torch.float64 if self.dtype == torch.float64 else torch.float32
        self.oracle = self.original.to(wide, copy=True).requires_grad_()
        self.torch = torch.optim.AdamW(
            [self.oracle], lr=self.lr, betas=(0.9, self.beta2), eps=1e-8, amsgrad=self.amsgrad, maximize=self.maximize,
            weight_decay=0.0 if self.anchored else self.weight_decay, foreach=False,
        )  # fmt: skip
        none, wide, compact = torch.empty(0), self.moment_dtype or wide, self.pick(self.original)
        self.value = self.frame(compact)
        self.exp_avg, self.exp_avg_sq = (self.frame(torch.zeros(compact.shape, dtype=wide)) for _ in range(2))
        self.max_exp_avg_sq = self.frame(torch.zeros(compact.shape, dtype=wide)) if self.amsgrad else none
        self.master_value = self.frame(compact.float()) if self.master else none
        self.anchor_dense = torch.randn(self.shape).to(self.dtype)
        self.anchor = self.frame(self.pick(self.anchor_dense)) if self.anchored else none
        self.dense = self.frame(self.original) if self.entries else none
        self.index = self.entries.index if self.entries else none.int()
        self.layout = self.entries.layout if self.entries else DENSE_LAYOUT
        self.steps = 0

    def frame(self, tensor):
        view, check = framed(tensor)
        self.checks.append(check)
        return view

    def pick(self, dense):
        return pick(dense, self.entries) if self.entries else dense.clone()

    def make_grad(self):
        self.steps += 1
        self.dense_grad = torch.randn(self.shape).to(self.dtype)
        self.grad = self.frame(self.pick(self.dense_grad))
        return self.grad

    def settings(self):
        return [self.lr, 0.9, self.beta2, 1e-8, self.weight_decay, float(self.steps)]

    @torch.no_grad()
    def oracle_step(self):
        """torch's step of the dense tensor; decay toward an anchor by hand."""
        if self.anchored:
            self.oracle -= self.lr * self.weight_decay * (self.oracle - self.anchor_dense.to(self.oracle.dtype))
        self.oracle.grad = self.dense_grad.to(self.oracle.dtype)
        self.torch.step()

    def state(self):
        """Everything that a step may change."""
        return [self.value, self.exp_avg, self.exp_avg_sq, self.max_exp_avg_sq, self.master_value, self.dense]

    def check(self):
        for check in self.checks:
            check()
        assert_close(self.value, self.pick(self.oracle))
        if self.master:
            assert_close(self.master_value, self.pick(self.oracle))
            assert_same_bits(self.value, self.master_value.to(self.dtype))
        if self.steps and self.moment_dtype is None:
            state = self.torch.state[self.oracle]
            assert_close(self.exp_avg, self.pick(state["exp_avg"]))
            assert_close(self.exp_avg_sq, self.pick(state["exp_avg_sq"]))
            if self.amsgrad:
                assert_close(self.max_exp_avg_sq, self.pick(state["max_exp_avg_sq"]))
        if self.entries:  # the selected entries hold the values, all others the bits that they had
            assert_same_bits(self.dense, place(self.original, self.entries, self.value))
        if self.dtype in LOW and not self.master:  # the next step starts from the rounded values
            start = place(self.oracle.detach(), self.entries, self.value.float()) if self.entries else self.value.float()
            self.oracle.data.copy_(start)


def arguments(parameters):
    names = ("value", "grad", "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "master_value", "anchor", "dense", "index")
    layouts = [number for p in parameters for number in p.layout]
    settings = torch.tensor([p.settings() for p in parameters], dtype=torch.float64, device="cpu").view(-1, 6)
    return [*([getattr(p, name) for p in parameters] for name in names), layouts, settings]


def step(parameters, **options):
    for parameter in parameters:
        parameter.make_grad()
    if parameters:
        options = {"amsgrad": parameters[0].amsgrad, "maximize": parameters[0].maximize} | options
    ops.adamw_step_(*arguments(parameters), **options)


def train(parameters, steps=4):
    for _ in range(steps):
        step(parameters)
        for parameter in parameters:
            parameter.oracle_step()
            parameter.check()


@on_layouts
@on_dtypes
@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_torch_on_the_dense_tensor(backend, kind, dtype, variant):
    for master in [False, True] if dtype in LOW else [False]:
        train([Parameter(kind, dtype, master=master, **VARIANTS[variant])])


@on_dtypes
def test_a_mixed_list_is_one_call(backend, dtype):
    """Every layout and dtype, with and without masters and anchors, each with its own settings and step number."""
    parameters = [
        Parameter(kind, dtype, which, anchored=anchored, lr=10.0**-i, weight_decay=0.1 * i, beta2=1 - 10.0**-i)
        for i, kind in enumerate([*KINDS, "dense"], start=1)
        for which, anchored in (("some", False), ("none", False), ("all", True))
    ]
    parameters += [Parameter("columns", low, master=True) for low in LOW]
    for parameter, steps in zip(parameters, range(100), strict=False):
        train([parameter], steps % 3)
    train(parameters)


@pytest.mark.parametrize("shape", [(0,), (1,), (), (2, 3, 4), (4099,), (300, 257)], ids=str)
def test_ordinary_parameters_of_any_shape(backend, shape):
    train([Parameter("dense", shape=shape), Parameter("dense", torch.bfloat16, shape=shape, master=True)], 2)


@pytest.mark.parametrize("kind", KINDS)
def test_large_weights(backend, two_threads, kind):
    """Enough entries for several threads and chunks."""
    train([Parameter(kind, shape=(240, 340)), Parameter(kind, torch.bfloat16, shape=(240, 340), master=True)], 1)


def test_settings_may_lie_beside_the_values(backend):
    """There a GPU reads them without the host: no kind of step may ask for them on the CPU."""
    parameters = [Parameter(kind) for kind in (*KINDS, "dense")]
    for _ in range(2):
        for parameter in parameters:
            parameter.make_grad()
        *lists, settings = arguments(parameters)
        ops.adamw_step_(*lists, settings.to(parameters[0].value.device))
        for parameter in parameters:
            parameter.oracle_step()
            parameter.check()


def test_an_empty_list_does_nothing(backend):
    step([])


def test_many_parameters(backend):
    train([Parameter(KINDS[i % 4], shape=(5, 17), which="all") for i in range(150)], 1)


def test_moments_may_be_narrower(backend):
    parameter = Parameter("rows", torch.bfloat16, master=True, moment_dtype=torch.bfloat16)
    step([parameter])
    g = parameter.pick(parameter.dense_grad).float()
    assert_close(parameter.exp_avg, 0.1 * g)
    assert_close(parameter.exp_avg_sq, 0.01 * g * g)


@pytest.mark.parametrize(("master", "moved"), [(True, 1.0), (False, 0.0)])
def test_small_updates_reach_bfloat16_through_the_master(backend, master, moved):
    """Steps of 2e-5 on weights of 0.05, whose neighbours in bf16 lie 2e-4 away: lost one by one, kept by the master."""
    parameter = Parameter("rows", torch.bfloat16, scale=0.0, master=master, lr=2e-5, weight_decay=0.0)
    for tensor in (parameter.value, parameter.master_value):
        tensor.fill_(0.05)
    before = parameter.value.clone()
    for _ in range(30):
        parameter.make_grad().fill_(1.0)
        ops.adamw_step_(*arguments([parameter]))
    assert (parameter.value != before).float().mean().item() == moved


class TestLossScale:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_grads_are_divided_in_place(self, backend, dtype):
        """By a power of two, so that not a bit is lost."""
        parameters = [Parameter(kind, dtype) for kind in (*KINDS, "dense")]
        for parameter in parameters:
            parameter.make_grad()
            parameter.grad *= 1024
        ops.adamw_step_(*arguments(parameters), grad_scale=torch.tensor(1024.0), found_inf=torch.tensor(0.0))
        for parameter in parameters:
            assert_same_bits(parameter.grad, parameter.pick(parameter.dense_grad))
            parameter.oracle_step()
            parameter.check()

    def test_found_inf_leaves_everything(self, backend):
        parameters = [Parameter(kind, amsgrad=True) for kind in (*KINDS, "dense")]
        train(parameters, 1)
        for parameter in parameters:
            parameter.make_grad().fill_(float("inf"))
        before = [[t.clone() for t in (*p.state(), p.grad)] for p in parameters]
        ops.adamw_step_(*arguments(parameters), amsgrad=True, grad_scale=torch.tensor(2.0), found_inf=torch.tensor(1.0))
        for parameter, was in zip(parameters, before, strict=True):
            for tensor, copy in zip((*parameter.state(), parameter.grad), was, strict=True):
                assert_same_bits(tensor, copy)

    @on_dtypes
    def test_clip_scales_gradients_that_stay_as_they_are(self, backend, dtype):
        """By no power of two, after the loss scale; torch's AdamW gets the scaled gradient."""
        parameters = [Parameter(kind, dtype, maximize=True, master=dtype in LOW) for kind in (*KINDS, "dense")]
        clip = torch.tensor(0.3)
        for loss_scale in (None, torch.tensor(1024.0)):
            for parameter in parameters:
                parameter.make_grad().mul_(1.0 if loss_scale is None else loss_scale)
            ops.adamw_step_(*arguments(parameters), maximize=True, grad_scale=loss_scale, clip=clip)
            for parameter in parameters:
                assert_same_bits(parameter.grad, parameter.pick(parameter.dense_grad))
                parameter.dense_grad = parameter.dense_grad.to(parameter.oracle.dtype) * clip.to(parameter.oracle.dtype)
                parameter.oracle_step()
                parameter.check()

    def test_without_found_inf_a_nan_stays_in_its_entry(self, backend):
        parameter = Parameter("rows")
        parameter.make_grad()[1, 2] = float("nan")
        ops.adamw_step_(*arguments([parameter]))
        expected = torch.zeros_like(parameter.value, dtype=torch.bool)
        expected[1, 2] = True
        assert torch.equal(parameter.value.isnan(), expected)


def _all_at_once(dtype=torch.float32):
    low = dtype in LOW
    return [Parameter(kind, dtype, amsgrad=True, anchored=True, master=low) for kind in (*KINDS, "dense")]


@on_dtypes
def test_the_same_bits_at_every_run(backend, two_threads, dtype):
    runs = []
    for _ in range(3):
        torch.manual_seed(1)
        rows = 50 if ops.interpreted(backend) else 500  # enough for several chunks, or for several threads
        parameters = [*_all_at_once(dtype), Parameter("rows", dtype, shape=(rows, 340), amsgrad=True)]
        for _ in range(3):
            step(parameters)
        runs.append([tensor for parameter in parameters for tensor in parameter.state()])
    for again in runs[1:]:
        for tensor, first in zip(again, runs[0], strict=True):
            assert_same_bits(tensor, first)


@pytest.mark.parametrize("scaled", [False, True])
def test_opcheck(backend, scaled):
    parameters = [
        Parameter("columns", torch.bfloat16, amsgrad=True, master=True),
        Parameter("dense", amsgrad=True, anchored=True),
    ]
    for parameter in parameters:
        parameter.make_grad()
    options = {"grad_scale": torch.tensor(2.0), "found_inf": torch.tensor(0.0), "clip": torch.tensor(0.5)} if scaled else {}
    torch.library.opcheck(torch.ops.clm_kernels.adamw_step_.default, (*arguments(parameters), True, False), options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiles_as_one_graph(backend, dtype):
    torch._dynamo.reset()
    eager, compiled = (torch.manual_seed(1) and _all_at_once(dtype) for _ in range(2))
    run = torch.compile(lambda *args: ops.adamw_step_(*args, amsgrad=True), fullgraph=True, backend="aot_eager")
    for _ in range(2):
        for parameters, function in ((eager, lambda *args: ops.adamw_step_(*args, amsgrad=True)), (compiled, run)):
            torch.manual_seed(2)
            for parameter in parameters:
                parameter.make_grad()
            function(*arguments(parameters))
    for a, b in zip(eager, compiled, strict=True):
        for tensor, expected in zip(b.state(), a.state(), strict=True):
            assert_same_bits(tensor, expected)


def test_a_step_between_forward_and_backward_is_refused(backend):
    for kind in (*KINDS, "dense"):
        parameter, x = Parameter(kind), torch.randn(3, SHAPE[1], requires_grad=True)
        y = x @ (parameter.dense if parameter.entries else parameter.value).T
        step([parameter])
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()


def test_marks_what_it_writes_and_nothing_else(backend):
    parameters = _all_at_once(torch.bfloat16)
    for parameter in parameters:
        parameter.make_grad()
    given = arguments(parameters)[:9]
    before = [[tensor._version for tensor in tensors] for tensors in given]
    ops.adamw_step_(*arguments(parameters), amsgrad=True)
    for tensors, versions, written in zip(given, before, (1, 0, 1, 1, 1, 1, 0, 1, 0), strict=True):
        for tensor, version in zip(tensors, versions, strict=True):
            if tensor.numel():
                assert (tensor._version > version) == bool(written)


@given(data=st.data())
def test_random_lists(backend, data):
    torch.manual_seed(data.draw(st.integers(0, 2**16)))
    shared = data.draw(st.sampled_from(list(VARIANTS.values())))
    parameters = []
    for _ in range(data.draw(st.integers(1, 4))):
        dtype, kind = data.draw(st.sampled_from(DTYPES)), data.draw(st.sampled_from([*KINDS, "dense"]))
        grid = data.draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
        own = {
            "which": data.draw(st.sampled_from(["none", "some", "all"])),
            "shape": (grid[0] * BLOCK[0], grid[1] * BLOCK[1]),
            "lr": data.draw(st.sampled_from([0.0, 1e-4, 0.3])),
            "master": dtype in LOW,
        }
        parameters.append(Parameter(kind, dtype, **own | shared))
    train(parameters, 2)


def test_tolerances_tell_a_wrong_update_apart():
    """The comparison above must fail for a plausible mistake, such as eps inside the root."""
    g = torch.full((4,), 1e-4)
    right, wrong = g / (g + 1e-8), g / (g * g + 1e-8).sqrt()
    with pytest.raises(AssertionError):
        assert_close(wrong, right)
    assert TOLERANCES[torch.float32][0] <= 1e-5
