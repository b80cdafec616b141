"""Several processes of one run: what they leave is what one leaves, they begin alike, and none waits for one that is gone."""

import json
import signal
from types import SimpleNamespace

import needs_datasets  # noqa: F401
import pytest
import torch.distributed as dist
from forked import HUNG
from launched import Launch, launched
from tiny_runs import assert_same, trained_tensors
from tiny_task import save_model, without_dropout, write_data
from transformers import AutoConfig

from clm_kernels.finetune import TrainConfig
from clm_kernels.finetune.processes.company import Several
from clm_kernels.measure.estimate.processes import exchange

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="needs torch.distributed with gloo"
)
EXAMPLES = 50  # which the processes cannot share evenly
OPTIONS = {"epochs": 3, "batch_size": 8, "learning_rate": 0.01, "warmup": 0.0, "scheduler": "constant", "pooling": "mean"}
SKIPPED = {"skip": 0.3, "energy": "0.9"}


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """The folder of all runs, and how each ended."""
    folder = tmp_path_factory.mktemp("processes")
    plain = OPTIONS | {"model": save_model(folder / "model"), **write_data(folder, count=EXAMPLES)}
    save_model(folder / "still", hidden_dropout_prob=0.0)
    still = plain | SKIPPED | {"model": without_dropout(folder / "still")}
    (folder / "elsewhere").mkdir()
    elsewhere = write_data(folder / "elsewhere", count=EXAMPLES + 1)["train"]
    still["learning_rate"] = 0.002  # a gradient that is 0 but for rounding moves a weight by a part of that
    launches = [
        Launch("one", still | {"gradient_accumulation": 4}, processes=1),
        Launch("two", still | {"gradient_accumulation": 2}),
        Launch("four", still, processes=4),
        Launch("undisturbed", plain | SKIPPED | {"eval_steps": 3}),
        Launch("killed", plain | SKIPPED | {"eval_steps": 3}, stopped={1: (8, signal.SIGKILL)}),
        Launch("silent", plain, stopped={1: (5, signal.SIGSTOP)}, patience=10.0),
        Launch("diverging", plain | {"learning_rate": 1e30}),
        Launch("another option", plain, others={1: {"density": 0.2}}),
        Launch("another file", plain, others={1: {"train": elsewhere}}),
        Launch("no file", plain, others={1: {"train": folder / "nothing.jsonl"}}),
    ]
    for launch in launches:
        launch.options = launch.options | {"output": folder / launch.name.replace(" ", "-")}
    launches.insert(5, Launch("resumed", {"resume": True, "output": folder / "killed"}))
    return folder, launched(folder / "said", launches)


def report(folder, name):
    return json.loads((folder / name / "report.json").read_text())


@pytest.mark.parametrize(("name", "processes"), [("two", 2), ("four", 4)])
def test_several_leave_what_one_leaves(ended, name, processes):
    """50 examples are six batches of eight and one of two: in each epoch's last step some have nothing to read."""
    folder, told = ended
    assert told[name].codes == [0] * processes, told[name].stderr
    several, one = report(folder, name), report(folder, "one")
    tensors, expected = trained_tensors(folder / name), trained_tensors(folder / "one")
    assert tensors.keys() == expected.keys()
    assert max((tensors[key] - expected[key]).abs().max().item() for key in tensors if tensors[key].numel()) <= 1e-6
    assert several["selection"] == one["selection"] and several["examples"] == one["examples"]
    assert several["examples"][-1]["examples"] < 1
    for ours, theirs in zip(several["history"], one["history"], strict=True):
        assert ours == pytest.approx(theirs, abs=1e-6)
    assert several["test"] == pytest.approx(one["test"], abs=1e-6)
    assert several["calibration"] == pytest.approx(one["calibration"], abs=1e-5)


@pytest.mark.parametrize("name", ["two", "four"])
def test_estimate_tells_what_is_exchanged(ended, name):
    folder, told = ended
    model = AutoConfig.from_pretrained(folder / "still", num_labels=3)
    config = TrainConfig(task="sequence", batch_size=8, pooling="mean", energy="0.9")
    expected = exchange(model, config, 8, "cpu", len(told[name].codes))
    assert report(folder, name)["exchanged"]["bytes"] == pytest.approx(expected.bytes, rel=0.01)


@pytest.mark.parametrize("name", ["two", "four"])
def test_what_is_exchanged_is_four_bytes_an_entry(ended, name):
    folder, told = ended
    found, whole = report(folder, name)["exchanged"], report(folder, name)["parameters"]
    assert found["bytes"] == pytest.approx(4 * report(folder, name)["trained"], rel=0.01)
    assert found["bytes"] < 2 * whole  # so that it could have been more
    assert found["processes"] == len(told[name].codes) and "exchanged" in told[name].stdout[0]
    assert report(folder, "one")["exchanged"] == {}


def test_process_0_alone_speaks(ended):
    _, told = ended
    first, *others = told["four"].stdout
    assert first.count("try it: clm-kernels predict") == 1 and not any(others)
    assert all("reducer.cpp" in line for said in told["four"].stderr[1:] for line in said.splitlines())


def test_all_end_where_a_run_diverges(ended):
    folder, told = ended
    assert told["diverging"].codes == [1, 1], told["diverging"].stderr
    assert "losses and weights stay finite, got 1e+30" in told["diverging"].stderr[0]
    assert not (folder / "diverging").exists()


def test_who_is_left_alone_ends_and_says_by_whom(ended):
    folder, told = ended
    code, killed = told["killed"].codes
    assert (code, killed) == (1, -signal.SIGKILL)
    last = told["killed"].stderr[0].strip().splitlines()[-1]
    assert "must live until the run ends, got no answer from process 1 of 2 (" in last
    assert not (folder / "killed" / ".lock").exists()


def test_a_run_goes_on_after_a_kill_bit_for_bit(ended):
    folder, told = ended
    assert told["undisturbed"].codes == told["resumed"].codes == [0, 0], told["resumed"].stderr
    assert "resuming after checkpoint-6" in told["resumed"].stderr[0]  # in the middle of the second epoch
    assert_same(trained_tensors(folder / "killed"), trained_tensors(folder / "undisturbed"))
    for told_of in ("examples", "history"):
        assert report(folder, "killed")[told_of] == report(folder, "undisturbed")[told_of]


def test_a_process_that_falls_silent(ended):
    """It is not dead: no connection breaks, and the other waits within torch."""
    _, told = ended
    assert told["silent"].codes == [1, HUNG]
    assert "got no answer from process 1 of 2 (" in told["silent"].stderr[0]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("another option", "density must be the same in all processes, got 0.125 in process 0 and 0.2 in process 1 of 2 ("),
        ("another file", "tokens of the train data must be the same in all processes"),
        ("no file", "all processes must begin well, got an error in process 1 of 2 ("),
    ],
)
def test_processes_begin_alike_or_not_at_all(ended, name, found):
    folder, told = ended
    assert told[name].codes == [2, 2]
    assert found in told[name].stderr[0], told[name].stderr
    assert not (folder / name.replace(" ", "-")).exists()


def test_the_first_difference_is_the_one_that_is_named(monkeypatch):
    """In the order in which they were told, which a set of names would not keep."""
    several = Several.__new__(Several)
    several.names = ["process 0", "process 1"]
    theirs = {f"option {number}": 1 for number in reversed(range(20))} | {"another": 1}
    monkeypatch.setattr(several, "_of_all", lambda own: [own, theirs])
    with pytest.raises(ValueError, match="option 0 must be the same in all processes, got 0 in process 0 and 1 in process 1"):
        several.check_alike({f"option {number}": 0 for number in range(20)})


@pytest.mark.parametrize(
    ("message", "asked"),
    [
        ("[/pytorch/third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 1000ms for recv", True),
        ("cannot read /home/gloo/train.jsonl", False),
    ],
)
def test_whoever_is_gone_is_asked_for_after_a_lost_connection_alone(message, asked):
    several = Several.__new__(Several)
    several.names, several.pulse = ["process 0", "process 1"], SimpleNamespace(gone=lambda: {1: "no memory"})
    lost = several.left_by(RuntimeError(message))
    assert "got no answer from process 1: no memory" in str(lost) if asked else lost is None
