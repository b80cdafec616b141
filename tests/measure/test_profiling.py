"""`profiling`: what belongs to which phase, bytes that are known beforehand, and that nothing is left behind."""

import gzip
import json
import sys
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import pytest
import torch
from models import build
from torch import nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from typer.testing import CliRunner

import clm_kernels as clm
from clm_kernels.cli import app
from clm_kernels.finetune import TrainConfig
from clm_kernels.finetune.methods import METHODS
from clm_kernels.measure.bench.machine import busy
from clm_kernels.measure.profiling import PHASES, Report, phases, picture, steps
from clm_kernels.selecting.scores.sensitivity import eligible_weights
from clm_kernels.selecting.units.control import random_selection

IDS = torch.randint(1, 64, (4, 8), generator=torch.Generator().manual_seed(0))  # 32 tokens: as many as the tiny models are wide
BATCH = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), "labels": torch.tensor([0, 1, 2, 0])}
FAMILIES = ("bert", "modernbert", "qwen3", "gpt2")


def _train(model, optimizer, steps, batch=BATCH):
    for _ in range(steps):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def _weight_events(model):
    """Names of what counts as a weight's gradient in one backward pass, with the shapes of products."""
    loss = model(**BATCH).loss
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as recorded:
        loss.backward()
    shapes = phases.trained_shapes(model)
    nodes = [e for e in recorded.events() if e.cpu_parent is None and e.name.startswith(phases.NODE)]
    assert nodes
    return [event for node in nodes for event in phases._weight_events(node, shapes)]


def _products(events):
    return [event for event in events if event.name == "aten::mm"]


@pytest.mark.parametrize("family", FAMILIES)
def test_full_training_makes_one_product_for_each_linear_weight(family):
    model = build(family)
    head = [m for m in model.modules() if isinstance(m, nn.Linear)]
    linear = {id(m) for m in [*eligible_weights(model).values(), *head]}
    products = _products(_weight_events(model))
    assert len(products) == len(linear)
    for product in products:  # the sum runs over tokens or examples; the weight's own products have its rows or columns there
        assert product.input_shapes[0][1] in (IDS.numel(), len(IDS))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_frozen_model_has_no_weight_gradient(family):
    model = build(family).requires_grad_(False)
    model.get_input_embeddings().register_forward_hook(lambda module, args, output: output.requires_grad_())
    (event,) = _weight_events(model)
    assert event.name.endswith("AccumulateGrad")  # the embeddings' output, a leaf here


@pytest.mark.parametrize("family", FAMILIES)
def test_compact_gradients_are_seen_by_name(family):
    model = build(family)
    selection = random_selection(model, density=0.1)
    clm.patch(model, selection, head=False)
    events = _weight_events(model)
    assert not _products(events)
    assert sum(event.name == "clm_kernels::weight_grad" for event in events) == len(selection)


def test_the_products_of_active_tokens_are_no_weight_gradient():
    """Whatever the shapes of the products that the input gradient is made of."""
    product = Event("aten::mm", 1, 2, input_shapes=[[4, 32], [32, 5]])
    gradient = Event("clm_kernels::input_grad", 0, 3, cpu_children=[product])
    compact = Event("clm_kernels::weight_grad", 3, 5)
    node = Event(phases.NODE + "LinearFunctionBackward", 0, 6, cpu_children=[gradient, compact])
    assert list(phases._weight_events(node, {(4, 5)})) == [compact]


@dataclass
class Event:
    """As much of torch's FunctionEvent as `split` reads."""

    name: str
    start: float
    end: float
    device_time_total: float = 0.0
    cpu_children: list = field(default_factory=list)
    input_shapes: list = field(default_factory=list)
    cpu_parent: object = None
    device_type: DeviceType = DeviceType.CPU
    is_async: bool = False

    @property
    def time_range(self):
        return SimpleNamespace(start=self.start, end=self.end, elapsed_us=lambda: self.end - self.start)


def _one_step():
    """A step from 1 to 16 ms: data 1, forward 3, loss 1, backward 2 + 1 between + 4 of which 3 for weights, clip 1, step 2."""
    weight = Event("aten::mm", 9500, 12500, 300, input_shapes=[[4, 32], [32, 5]])
    inner = Event("aten::mm", 9000, 9500, 80, input_shapes=[[32, 4], [4, 5]])
    nodes = (
        Event(phases.NODE + "ReluBackward0", 6000, 8000, 50),
        Event(phases.NODE + "AddmmBackward0", 9000, 13000, 400, [inner, weight]),
    )
    ends = [Event("Optimizer.step#AdamW.step", 0, 1000, 9), Event("Optimizer.step#AdamW.step", 14000, 16000, 20)]
    loss, copy = Event("aten::nll_loss", 5200, 5400, 7), Event("aten::copy_", 1200, 1300, 5)
    return [*reversed(nodes), Event(phases.FORWARD, 2000, 5000, 100), *ends, loss, copy]


def test_every_microsecond_of_a_cpu_step_has_its_phase():
    (step,) = phases.split(_one_step(), {(4, 5)}, on_gpu=False)
    expected = {"forward": 4, "input gradients": 4, "weight gradients": 3, "optimizer": 2, "data": 1, "other": 1, "idle": 0}
    assert step.milliseconds == pytest.approx(expected)
    assert sum(step.milliseconds.values()) == pytest.approx(15)


def test_on_a_gpu_the_kernels_time_counts_and_the_rest_is_idle():
    (step,) = phases.split(_one_step(), {(4, 5)}, on_gpu=True)
    expected = {"forward": 0.107, "input gradients": 0.15, "weight gradients": 0.3, "optimizer": 0.02, "data": 0.005, "other": 0}
    assert step.milliseconds == pytest.approx(expected | {"idle": 15 - sum(expected.values())})


class Chain(nn.Module):
    """Linear layers without a bias, of which each keeps its input for the backward pass."""

    def __init__(self, layers=4, width=64):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(layers))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return SimpleNamespace(loss=x.sum())


def test_bytes_are_those_that_arithmetic_expects():
    model, weight, activation = Chain(), 64 * 64 * 4, 256 * 64 * 4
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    with clm.profiling(model, optimizer, steps=2, warm_up=2) as profiled:
        _train(model, optimizer, 5, {"x": torch.randn(256, 64)})
    held = profiled.report.bytes
    assert held["weights"] == held["gradients"] == 4 * weight
    assert held["optimizer state"] == 2 * 4 * weight + 4 * 4  # and four step counters
    assert held["activations"] == 3 * activation + 4  # inputs of all layers but the first, and the loss
    assert sum(held.values()) - 4 * weight <= profiled.report.peak <= sum(held.values()) + 2 * activation


def test_a_selection_keeps_less_than_full_training():
    reports = {}
    for name in ("full", "sparse"):
        model = build(num_hidden_layers=3)
        if name == "sparse":
            clm.patch(model, random_selection(model, density=0.05))
        optimizer = clm.SparseAdamW([p for p in model.parameters() if p.requires_grad])
        with clm.profiling(model, optimizer, steps=3, warm_up=2) as profiled:
            _train(model, optimizer, 6)
        reports[name] = profiled.report
    full, sparse = reports["full"], reports["sparse"]
    values = sum(p.numel() * 4 for p in model.parameters() if p.requires_grad)
    assert sparse.bytes["gradients"] == values
    assert sparse.bytes["optimizer state"] < 0.3 * full.bytes["optimizer state"]
    assert sparse.bytes["activations"] < full.bytes["activations"]
    assert sparse.peak < full.peak
    for report in reports.values():
        assert all(report.milliseconds[phase] > 0 for phase in PHASES[:5])
        assert report.step > 0


def test_training_under_it_is_the_same_and_leaves_nothing_behind(tmp_path):
    states = []
    for watched in (False, True):
        model = build()
        clm.patch(model, random_selection(model, density=0.1))
        optimizer = clm.SparseAdamW(model.parameters(), lr=1e-2)
        if watched:
            with clm.profiling(model, optimizer, steps=1, warm_up=2, trace=tmp_path / "trace.json.gz"):
                _train(model, optimizer, 6)
            assert not model._forward_hooks and not model._forward_pre_hooks
            assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks
        else:
            _train(model, optimizer, 6)
        states.append(model.state_dict())
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name
    with gzip.open(tmp_path / "trace.json.gz") as file:
        names = {event.get("name") for event in json.load(file)["traceEvents"]}
    assert {phases.FORWARD, "clm_kernels::weight_grad", "Optimizer.step#SparseAdamW.step", "[memory]"} <= names


@pytest.mark.parametrize("steps", [0, 2, 4, 5])
def test_too_few_steps_are_no_report(steps):
    model = build()
    optimizer = torch.optim.AdamW(model.parameters())
    with clm.profiling(model, optimizer, steps=3, warm_up=2) as profiled:
        _train(model, optimizer, steps)
    with pytest.raises(RuntimeError, match=rf"at least 6 steps to be measured, got {steps}"):
        profiled.report  # noqa: B018


def test_an_error_inside_passes_through_and_the_profiler_stops():
    model = build()
    optimizer = torch.optim.AdamW(model.parameters())
    with pytest.raises(KeyError, match="mine"), clm.profiling(model, optimizer, steps=3, warm_up=2):
        _train(model, optimizer, 3)
        raise KeyError("mine")
    assert not torch.autograd.profiler._is_profiler_enabled
    assert not model._forward_hooks
    with pytest.raises(ValueError, match="warm_up at least 2, got 3 and 1"):
        clm.profiling(model, optimizer, steps=3, warm_up=1)


def test_the_trainer_inside(tmp_path):
    from transformers import Trainer, TrainingArguments

    model = build()
    clm.patch(model, random_selection(model, density=0.1))
    optimizer = clm.SparseAdamW(model.parameters())
    data = [{"input_ids": row, "labels": 0} for row in IDS.repeat(8, 1)]
    args = TrainingArguments(str(tmp_path), max_steps=7, per_device_train_batch_size=4, report_to="none", use_cpu=True)
    with clm.profiling(model, optimizer, steps=3, warm_up=2) as profiled:
        Trainer(model, args, train_dataset=data, optimizers=(optimizer, None)).train()
    assert profiled.report.milliseconds["data"] > 0
    assert profiled.report.milliseconds["other"] > 0  # clipping


@pytest.fixture
def tiny(tmp_path):
    build().config.save_pretrained(tmp_path / "tiny")
    return str(tmp_path / "tiny")


@pytest.mark.parametrize("task", ["sequence", "token"])
@pytest.mark.parametrize("method", METHODS)
def test_methods_train_what_they_say(tiny, method, task):
    if method == "lora":
        pytest.importorskip("peft")
    config = TrainConfig(model=tiny, task=task, density=0.1, batch_size=2).replace(method=method)
    report = steps.measure(config, length=8, steps=2, warm_up=2)
    everything = sum(p.numel() * 4 for p in build(task=task).parameters())
    if method == "full":
        assert report.bytes["gradients"] == everything
    else:
        assert 0 < report.bytes["gradients"] < 0.5 * everything
    assert report.bytes["activations"] > 0


def test_every_token_has_a_label_where_tags_are_learnt(tiny):
    described = build().config
    for task, shape in (("sequence", (2,)), ("token", (2, 8))):
        batch = next(iter(steps.batches(described, TrainConfig(task=task, batch_size=2), 8, 3, pin=False)))
        assert batch["labels"].shape == shape and batch["labels"].max() < described.num_labels


def test_the_picture_shows_every_report(tmp_path):
    report = Report(
        "cpu", 9.0, dict.fromkeys(PHASES, 2.0), {"weights": 10, "gradients": 1, "optimizer state": 2, "activations": 5}, 17
    )
    picture.draw({"full": report, "sparse": report}, tmp_path / "bars.svg", "a title")
    text = (tmp_path / "bars.svg").read_text()
    assert "weight gradients" in text and "a title" in text and text.count("at most") >= 2


def test_shares_of_active_tokens_stand_in_report_and_picture(tiny, tmp_path):
    config = TrainConfig(model=tiny, density=0.1, batch_size=2, energy="attention=0.9,feed_forward=0.7")
    report = steps.measure(config, length=8, steps=2, warm_up=2)
    assert report.active and all(0 < share < 1 for share in report.active.values())
    assert {name.partition("layer.")[2][:1] for name in report.active} == {"0", "1"}
    every = steps.measure(replace(config, energy="1"), length=8, steps=2, warm_up=2)
    assert every.active == {}
    picture.draw({"full": every, "sparse": report}, tmp_path / "bars.svg", "a title")
    text = (tmp_path / "bars.svg").read_text()
    assert "active tokens, sparse" in text and "attention.self.query" in text and "a title" in text
    picture.draw({"full": every}, tmp_path / "bars.svg", "a title")
    assert "active tokens" not in (tmp_path / "bars.svg").read_text()


def test_the_command_shows_shares_by_layer(tiny, tmp_path):
    result = _command("--model", tiny, "--device", "cpu", "--density", "0.1", "--energy", "0.8", "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "tokens in the backward, layer 0" in result.output and "layer 1" in result.output
    stored = json.loads((tmp_path / "out" / "profile.json").read_text())
    assert stored["work"]["energy"] == "0.8" and stored["reports"]["sparse"]["active"] and not stored["reports"]["full"]["active"]


def _command(*arguments):
    return CliRunner().invoke(app, ["profile", *map(str, arguments), "--batch-size", "2", "--length", "8", "--steps", "2"])


def test_the_command(tiny, tmp_path):
    result = _command("--model", tiny, "--device", "cpu", "--density", "0.1", "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    for part in ("weight gradients", "activations", "full", "sparse"):
        assert part in result.output
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"profile.json", "profile.png", "trace-full.json.gz", "trace-sparse.json.gz"}
    reports = json.loads((tmp_path / "out" / "profile.json").read_text())["reports"]
    assert reports["sparse"]["bytes"]["gradients"] < reports["full"]["bytes"]["gradients"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "prefix"], "method must be 'sparse', 'full', 'head' or 'lora', got 'prefix'"),
        (["--dtype", "int8"], "dtype must be 'auto', 'float32' or 'bfloat16', got 'int8'"),
        (["--density", "0"], "density must be in (0, 1], got 0.0"),
        (["--model", "nowhere"], "profile: model 'nowhere' must be a directory"),
        (["--kind", "diagonals"], "diagonals"),
    ],
)
def test_what_the_command_refuses(tiny, options, message):
    result = _command("--model", tiny, "--device", "cpu", *options)
    assert result.exit_code == 2 and message in result.stderr and "Traceback" not in result.stderr


def test_without_matplotlib_the_command_says_so_before_it_measures(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setattr(steps, "measure", lambda *args, **kwargs: pytest.fail("measured"))
    result = _command("--model", tiny, "--device", "cpu", "--output", tmp_path / "out")
    assert (
        result.exit_code == 1
        and 'profile: the package matplotlib is needed: pip install "clm-kernels[pictures]"' in result.stderr
    )


@pytest.mark.parametrize(("load", "warned"), [(0.2, False), (7.3, True)])
def test_a_busy_machine_is_warned_of(monkeypatch, load, warned):
    monkeypatch.setattr("os.getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr("os.cpu_count", lambda: torch.get_num_threads())
    assert ("7.3 of" in busy()) is warned
    assert busy("cuda") == ""


def test_the_command_warns_before_it_measures(tiny, monkeypatch):
    monkeypatch.setattr("clm_kernels.measure.bench.machine.busy", lambda device: "7.3 of 2 cores were taken")
    monkeypatch.setattr("clm_kernels.measure.profiling.steps.measure", lambda *_, **__: 1 / 0)
    result = _command("--model", tiny, "--device", "cpu")
    assert "warning: 7.3 of 2 cores were taken: times may be too long" in result.stderr
