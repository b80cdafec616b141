"""Runs within a time, by a clock that goes by what the model does; what they leave, and what cannot be held."""

import time
from dataclasses import replace

import pytest
import torch
from interruption import press_ctrl_c
from tiny_runs import FAST, PLAIN, assert_same, base, silent, trained_tensors  # noqa: F401

from clm_kernels.finetune import TrainConfig, train
from clm_kernels.finetune.beginning import begin
from clm_kernels.finetune.methods import method_of
from clm_kernels.finetune.pricing import within
from clm_kernels.finetune.pricing.plan import KEPT, LOWEST
from clm_kernels.finetune.run_file import load_run_file, read_run
from clm_kernels.patching.active import Active

PACED = {"kind": "groups", "select": "auto", "per": "auto", "density": 0.125, "batch_size": 8, "epochs": 4}
BATCH, TOKEN, ACTIVE, READ = 0.1, 0.02, 0.04, 0.005  # seconds of the clock


class Clock:
    """Goes on by what a model reads, and by the tokens in the backward of its layers."""

    def __init__(self):
        self.now, self.layers, self.slower = 0.0, 1, 1.0

    def __call__(self):
        return self.now

    def forward(self, module, args, kwargs):
        ids = kwargs.get("input_ids")
        if ids is None or not hasattr(module, "classifier"):
            return
        self.layers = sum(isinstance(getattr(part, "_active", None), Active) for part in module.modules())
        if module.training:
            self.now += self.slower * (BATCH + ids.numel() * (TOKEN + (0 if self.layers else ACTIVE)))
        else:
            self.now += self.slower * ids.numel() * READ

    def note(self, active, came, count):
        self.now += self.slower * ACTIVE * int(count) / self.layers
        noted(active, came, count)


noted = Active.note


@pytest.fixture(scope="module")
def clock():
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock()
        patch.setattr(time, "perf_counter", clock)
        patch.setattr(Active, "note", lambda active, came, count: clock.note(active, came, count))
        module_call = torch.nn.Module.__call__

        def call(module, *args, **kwargs):
            clock.forward(module, args, kwargs)
            return module_call(module, *args, **kwargs)

        patch.setattr(torch.nn.Module, "__call__", call)
        yield clock


@pytest.fixture(scope="module")
def held(base, clock, tmp_path_factory):  # noqa: F811
    """A run that is held to less than it would take, on a machine that is slower from its first step on than when it was timed.

    Its folder, report, what it said, and its minutes by the clock.
    """
    said, began = [], clock.now

    def say(line):
        said.append(line)
        clock.slower = 1.5 if " minutes: " in line else clock.slower

    config = replace(base, **PACED, minutes=1.5, output=str(tmp_path_factory.mktemp("held") / "out"))
    report = train(config, say)
    clock.slower = 1.0
    return config.run.output, report, said, (clock.now - began) / 60


def test_it_keeps_its_word(held):
    _, report, said, paid = held
    told = report.minutes
    assert told["epochs"] == 4 and LOWEST < told["share"] < 1
    assert told["predicted"] == pytest.approx((1 - KEPT) * 1.5, rel=1e-3) and paid == pytest.approx(1.5, rel=0.1)
    assert len(told["shares"]) == 3 and max(told["shares"]) < told["share"]
    assert told["paid"] == pytest.approx(paid)
    assert told["speed"]["token"] == pytest.approx(TOKEN, rel=0.2) and told["speed"]["batch"] == pytest.approx(BATCH, rel=0.2)
    assert told["speed"]["active"] == pytest.approx(ACTIVE, rel=0.2) and told["speed"]["read"] == pytest.approx(READ)
    assert any(line.startswith(f"1.4 of 1.5 minutes: 4 epochs, {told['share']:.0%} of the tokens and") for line in said)


def test_its_run_file_repeats_it_without_a_clock(held, tmp_path):
    output, report, *_ = held
    options = load_run_file(f"{output}/run.yaml").options
    assert (options["minutes"], options["cost"], options["epochs"]) == (None, report.minutes["cost"], 4)
    assert [float(share) for share in options["shares"].split(",")] == report.minutes["shares"]
    again = train(read_run(f"{output}/run.yaml", silent, output=str(tmp_path / "b")), silent)
    assert (again.spent, again.minutes) == (report.spent, {"shares": report.minutes["shares"]})
    assert_same(trained_tensors(output), trained_tensors(tmp_path / "b"))


def test_a_resumed_run_keeps_its_run_file(base, tmp_path):  # noqa: F811
    config = replace(base, **PACED, cost=0.5, output=str(tmp_path / "o")).replace(epochs=4, shares="0.6,0.5,0.4")
    before = None
    with pytest.MonkeyPatch.context() as context:
        press_ctrl_c(context, 8)
        with pytest.raises(KeyboardInterrupt):
            train(config, silent)
    before = load_run_file(tmp_path / "o" / "run.yaml")
    train(TrainConfig(output=config.run.output, resume=True), silent)
    after = load_run_file(tmp_path / "o" / "run.yaml")
    assert after.options == before.options and after.files == before.files and before.options["model"] == config.data.model


@pytest.mark.parametrize("shares", ["0.05", "0.5,2", "half"])
def test_shares_that_cannot_be(shares):
    with pytest.raises(ValueError, match=r"train: shares must be numbers from 0\.1 to 1, separated by commas"):
        TrainConfig(cost=0.5, shares=shares).check(())


def test_with_another_method_epochs_go(base, clock, tmp_path):  # noqa: F811
    options = {name: value for name, value in base.options().items() if name in ("model", "train", "validation", "test")}
    config = TrainConfig(**options | PLAIN, method="full", minutes=1.2, output=str(tmp_path / "o"))
    began = clock.now
    report = train(config, silent)
    assert report.minutes["share"] is None and report.config["epochs"] == report.minutes["epochs"] < 3
    assert report.history[-1]["epoch"] == pytest.approx(report.minutes["epochs"], abs=0.2)
    assert (clock.now - began) / 60 == pytest.approx(1.2, rel=0.1)


@pytest.mark.parametrize(
    "options", [PACED, PLAIN | {"method": "full"}, PLAIN | {"method": "lora"}], ids=["sparse", "full", "lora"]
)
def test_what_is_timed_changes_nothing(base, tmp_path, options):  # noqa: F811
    own = options if "method" not in options else {name: base.options()[name] for name in ("model", "train")} | options
    config = replace(base, **own) if own is options else TrainConfig(**own)
    run = begin(config.replace(minutes=5.0, output=str(tmp_path / "o")), silent)
    choice = method_of(run.config).choose(run.config, run.loaded, run.splits["train"])
    model = run.loaded.model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()], [parameter.requires_grad for parameter in model.parameters()]
    found, told, _ = within(run.config, run.loaded, choice.selection, run.splits, run.task, run.args, time.perf_counter(), silent)
    assert_same(before, model.state_dict())
    assert modes == (
        [module.training for module in model.modules()],
        [parameter.requires_grad for parameter in model.parameters()],
    )
    assert all(parameter.grad is None for parameter in model.parameters())
    assert found.options() == run.config.replace(minutes=None).options() and told["share"] is None


@pytest.mark.parametrize(
    "options, message",
    [
        ({"minutes": 0.0}, "minutes must be above 0"),
        ({"cost": 0.3}, "cost must be left out with minutes, which decides it, got 0.3"),
        ({"noise": 0.1}, "noise must be left out with minutes, which decides it, got 0.1"),
        ({"packing": True}, "packing must be left out with minutes, which times batches as they are padded"),
        ({"balance": "sample"}, "balance must be none or weights with skip, cost and minutes"),
        ({"seeds": 2}, "minutes must be left out with seeds and search"),
        ({"search": 2}, "minutes must be left out with seeds and search"),
        ({"minutes": 1e-6}, r"minutes must be at least 0\.\d+, what 0.1 epochs take here, got 1e-06"),
    ],
)
def test_refusals(base, tmp_path, options, message):  # noqa: F811
    with pytest.raises(ValueError, match=message):
        train(replace(base, **PACED | {"minutes": 1.0} | options, output=str(tmp_path / "o")), silent)
    assert not (tmp_path / "o").exists()


def test_a_head_that_is_replayed_and_several_processes_are_refused(base, tmp_path, monkeypatch):  # noqa: F811
    plain = {name: base.options()[name] for name in ("model", "train")} | {"output": str(tmp_path / "o"), "minutes": 1.0}
    with pytest.raises(ValueError, match="minutes must be left out with the method head, unless it replays nothing"):
        train(TrainConfig(**plain, method="head"), silent)
    monkeypatch.setattr("clm_kernels.finetune.pricing.fitting.processes", lambda: 2)
    with pytest.raises(ValueError, match="minutes must be left out where several processes or GPUs train"):
        train(TrainConfig(**plain | FAST), silent)
