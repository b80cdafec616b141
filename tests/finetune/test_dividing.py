"""`torchrun clm-kernels train --fsdp`: processes that hold the base together leave what one process leaves."""

import json
import signal

import needs_datasets  # noqa: F401
import pytest
import torch
import torch.distributed as dist
from launched import Launch, launched
from tiny_runs import silent, trained_tensors
from tiny_task import save_model, without_dropout, write_data

from clm_kernels.finetune import TrainConfig, train

PROCESSES, EXAMPLES, EPOCHS = 2, 48, 3
OPTIONS = {"batch_size": EXAMPLES // PROCESSES // 2, "epochs": EPOCHS, "pooling": "mean", "warmup": 0.0, "scheduler": "constant"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with what processes have left and said, and what one process has left."""
    if not (dist.is_available() and dist.is_gloo_available()):
        pytest.skip("needs torch.distributed with gloo")
    folder = tmp_path_factory.mktemp("divided")
    options = {"model": save_model(folder / "model"), **write_data(folder, count=EXAMPLES), **OPTIONS}
    without_dropout(folder / "model")
    divided = options | {"fsdp": True}
    launches = [
        Launch("whole", divided | {"output": folder / "many"}),
        Launch("killed", divided | {"output": folder / "again"}, stopped=dict.fromkeys(range(PROCESSES), (3, signal.SIGKILL))),
        Launch("resumed", {"output": folder / "again", "resume": True}),
    ]
    told = launched(folder / "said", launches)
    train(TrainConfig(**options, output=str(folder / "one"), gradient_accumulation=PROCESSES), silent)
    return folder, told


def report(folder, name):
    return json.loads((folder / name / "report.json").read_text())


def test_every_process_ends_well_and_process_0_speaks(runs):
    for told in (runs[1]["whole"], runs[1]["resumed"]):
        first, second = (out + err for out, err in zip(told.stdout, told.stderr, strict=True))
        assert told.codes == [0, 0], (first, second)
        assert first.count("try it: clm-kernels predict") == 1 and first.count("epoch 3 of 3") == 1
        assert "epoch" not in second and "try it" not in second


def test_they_leave_what_one_process_leaves(runs):
    folder = runs[0]
    assert {path.name for path in (folder / "many").iterdir()} == {path.name for path in (folder / "one").iterdir()}
    torch.testing.assert_close(trained_tensors(folder / "many"), trained_tensors(folder / "one"), rtol=0, atol=1e-6)
    many, one = report(folder, "many"), report(folder, "one")
    assert (
        many["selection"] == one["selection"]
        and many["trained"] == one["trained"]
        and many["sizes"].keys() == one["sizes"].keys()
    )
    assert [line["accuracy"] for line in many["history"]] == [line["accuracy"] for line in one["history"]]
    assert many["test"]["accuracy"] == one["test"]["accuracy"] and many["scope"].keys() == one["scope"].keys()
    assert many["calibration"]["temperature"] == pytest.approx(one["calibration"]["temperature"], rel=1e-4)


def test_the_report_says_what_each_process_held(runs):
    parts = report(runs[0], "many")["divided"]
    assert parts["processes"] == 2 and 0.45 < parts["shards"] / parts["base"] < 0.52
    assert parts["trained"] == 4 * report(runs[0], "many")["trained"]
    assert parts["trained"] - parts["exchanged"] == 4 * 32  # the bias of a pooler that a mean does not read
    assert report(runs[0], "one")["divided"] == {}
    assert "each process" in runs[1]["whole"].stdout[0] + runs[1]["whole"].stderr[0]


def test_a_resumed_run_leaves_the_same_bits(runs):
    folder, told = runs
    assert told["killed"].codes == [-signal.SIGKILL] * PROCESSES
    assert "resuming after checkpoint-2" in told["resumed"].stderr[0]
    many, again = trained_tensors(folder / "many"), trained_tensors(folder / "again")
    assert many.keys() == again.keys() and all(torch.equal(many[name], again[name]) for name in many)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "full"}, "fsdp must be left out with the method full, got True"),
        ({"method": "lora"}, "fsdp must be left out with the method lora, got True"),
        ({"method": "head"}, "fsdp must be left out with the method head, got True"),
        ({"select": "fisher"}, "select must be random with fsdp, or a selection given as a file"),
        ({"skip": 0.1}, "skip must be left out with fsdp, got 0.1"),
        ({"cost": 0.5}, "cost must be left out with fsdp, got 0.5"),
        ({"packing": True}, "packing must be left out with fsdp, got True"),
        ({"merge_tokens": 4}, "merge_tokens must be left out with fsdp, got 4"),
        ({"precision": "bf16"}, r"precision must be left out with fsdp \(dtype is that of weights and arithmetic\), got 'bf16'"),
        ({}, r"fsdp must be given to several processes \(torchrun\), got 1 process"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(tmp_path, given, message):
    config = TrainConfig(model="nowhere", train="nothing.jsonl", output=str(tmp_path / "out"), fsdp=True, **given)
    with pytest.raises(ValueError, match=f"train: {message}"):
        train(config, silent)
