"""A machine that is taken away, a terminal that is closed: the run saves within its step, and goes on bit for bit."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace

import pytest
import torch.distributed as dist
from interruption import stop
from places import ROOT
from tiny_runs import assert_same, silent, trained_tensors
from tiny_task import save_model, write_data

from clm_kernels.finetune import TrainConfig, beginning, interruption, recipe, train
from clm_kernels.finetune.checkpoints import last_checkpoint
from clm_kernels.finetune.interruption import Interrupted, Interruption, tidied_up_after

SIGNALS = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]


@pytest.fixture(scope="module")
def quick(base):
    return replace(base, select="random")


@pytest.fixture(scope="module")
def expected(quick, tmp_path_factory):
    output = tmp_path_factory.mktemp("whole") / "o"
    train(replace(quick, output=str(output)), silent)
    return trained_tensors(output)


VARIANTS = {
    "plain": ({}, 8),
    "accumulated, not clipped": ({"gradient_accumulation": 2, "max_grad_norm": 0.0}, 9),
    "bf16 weights and arithmetic": ({"dtype": "bfloat16", "precision": "bf16"}, 8),
    "skipped examples": ({"skip": 0.3}, 10),
    "replayed": ({"replay": True, "layers": "upper half"}, 8),
    "active tokens": ({"energy": "0.9"}, 8),
    "validated in the epoch": ({"eval_steps": 4}, 7),
}


@pytest.mark.parametrize(
    ("variant", "number"), [*((name, signal.SIGTERM) for name in VARIANTS), *(("plain", it) for it in SIGNALS[1:])]
)
def test_the_running_step_is_saved_and_nothing_differs_afterwards(quick, expected, tmp_path, variant, number):
    """Dropout is on in all of them. That the moments are the same too, the epoch that follows shows."""
    options, step = VARIANTS[variant]
    config = replace(quick, **options)
    former = signal.getsignal(number)
    raised = stop(replace(config, output=str(tmp_path / "b")), step, number=number)
    assert isinstance(raised, Interrupted) and raised.number == number and signal.getsignal(number) is former
    made = last_checkpoint(tmp_path / "b" / "checkpoints")
    assert made.name == f"checkpoint-{-(-step // config.training.gradient_accumulation)}"
    train(TrainConfig(output=str(tmp_path / "b"), resume=True), silent)
    if options:
        train(replace(config, output=str(tmp_path / "a")), silent)
    assert_same(trained_tensors(tmp_path / "a") if options else expected, trained_tensors(tmp_path / "b"))


def test_a_second_signal_stops_at_once_but_an_echo_does_not(monkeypatch):
    """A shell sends SIGHUP after the kernel has, a launcher SIGTERM after the scheduler."""
    with pytest.raises(Interrupted), Interruption(silent) as running:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert running.asked == signal.SIGTERM
    with pytest.raises(ZeroDivisionError), Interruption(silent):
        signal.raise_signal(signal.SIGTERM)
        monkeypatch.setattr(interruption, "ECHO", 0.0)
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGTERM)
        _ = 1 / 0


def test_another_signal_is_no_echo():
    with pytest.raises(ZeroDivisionError), Interruption(silent):
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGINT)
        _ = 1 / 0


@pytest.mark.parametrize("number", SIGNALS, ids=str)
def test_what_the_program_ignores_or_handles_itself_stays(number):
    """As under nohup."""
    heard = []
    before = signal.getsignal(number)
    try:
        for handler, count in ((signal.SIG_IGN, 0), (lambda *_: heard.append(1), 2)):
            signal.signal(number, handler)
            with tidied_up_after(), Interruption(silent) as running:
                signal.raise_signal(number)
                signal.raise_signal(number)
                assert not running.asked and len(heard) == count
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", SIGNALS, ids=str)
def test_before_training_begins_nothing_is_left(quick, tmp_path, monkeypatch, number):
    monkeypatch.setattr(beginning, "load_base", lambda *_: signal.raise_signal(number))
    with pytest.raises(Interrupted):
        train(replace(quick, output=str(tmp_path / "deep" / "o")), silent)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["write_folder", "draw_cost", "write_page"])
def test_while_the_result_is_written_the_run_is_not_finished(quick, expected, tmp_path, monkeypatch, place):
    with monkeypatch.context() as context:
        context.setattr(recipe, place, lambda *_: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(Interrupted):
            train(replace(quick, output=str(tmp_path / "o")), silent)
    assert not (tmp_path / "o" / "report.json").exists()
    train(TrainConfig(output=str(tmp_path / "o"), resume=True), silent)
    assert {"report.json", "report.html"} < {path.name for path in (tmp_path / "o").iterdir()}
    assert_same(trained_tensors(tmp_path / "o"), expected)


def test_what_is_finished_is_not_stopped_any_more(quick, tmp_path, monkeypatch):
    drop = recipe.drop_checkpoints
    monkeypatch.setattr(recipe, "drop_checkpoints", lambda folder: (signal.raise_signal(signal.SIGTERM), drop(folder)))
    train(replace(quick, epochs=1, output=str(tmp_path / "o")), silent)
    assert (tmp_path / "o" / "report.json").exists() and not (tmp_path / "o" / "checkpoints").exists()


def test_a_line_in_the_middle_of_a_line_does_not_hurt():
    def say(line):
        raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stderr>'>")

    with pytest.raises(ZeroDivisionError), Interruption(say) as running:
        signal.raise_signal(signal.SIGINT)
        assert running.asked
        _ = 1 / 0


# In processes of their own


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    """Of a run that takes long enough to be stopped."""
    folder = tmp_path_factory.mktemp("options")
    given = {"model": save_model(folder / "model"), **write_data(folder), "select": "random", "pooling": "mean"}
    given |= {"epochs": 3000, "eval-steps": 50, "batch-size": 8}
    return [str(part) for name, value in given.items() for part in (f"--{name}", value)]


PROGRAM = [sys.executable, "-m", "clm_kernels"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def wait_for_a_checkpoint(output, process):
    deadline = time.monotonic() + 200
    while not list(output.glob("checkpoints/*/manifest.json")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("number", SIGNALS, ids=str)
def test_the_program_ends_by_convention_and_says_how_to_go_on(options, tmp_path, number):
    output = tmp_path / "o"
    process = subprocess.Popen(
        [*PROGRAM, "train", *options, "--output", str(output)], stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    wait_for_a_checkpoint(output, process)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=100)
    assert process.returncode == 128 + number, stderr
    assert "Traceback" not in stderr
    made = last_checkpoint(output / "checkpoints")
    assert stderr.splitlines()[-1] == f"stopped; {made.name} is kept; to go on: clm-kernels train --resume --output {output}"


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs pseudo-terminals")
def test_a_terminal_that_is_closed(options, tmp_path):
    """The kernel sends SIGHUP, and whatever is written afterwards fails: the progress bar, too."""
    output = tmp_path / "o"
    terminal, its_end = os.openpty()
    program = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", program, *PROGRAM, "train", *options, "--output", str(output)],
        stdin=its_end, stdout=its_end, stderr=its_end, env=ENVIRONMENT, start_new_session=True,
    )  # fmt: skip
    os.close(its_end)
    os.set_blocking(terminal, False)
    while not list(output.glob("checkpoints/*/manifest.json")):
        assert process.poll() is None
        with suppress(BlockingIOError):
            os.read(terminal, 1 << 16)
        time.sleep(0.05)
    os.close(terminal)
    assert process.wait(timeout=100) == 128 + signal.SIGHUP
    steps = sorted(int(path.name.rpartition("-")[2]) for path in (output / "checkpoints").iterdir())
    assert any(step % 50 for step in steps)  # one that the signal has made


@pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="needs torch.distributed with gloo")
def test_two_processes_stop_after_the_same_step_and_go_on(options, tmp_path):
    """The launcher gets the signal and passes it on: which reaches the processes at different times."""

    def torchrun(*arguments):
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        return subprocess.Popen(
            [*launcher, "-m", "clm_kernels", "train", *map(str, arguments)], stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
        )

    output = tmp_path / "o"
    process = torchrun(*options, "--output", output)
    wait_for_a_checkpoint(output, process)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=100)
    made = last_checkpoint(output / "checkpoints")
    assert f"stopped; {made.name} is kept" in stderr, stderr
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= {path.name for path in made.iterdir()}
    process = torchrun("--resume", "--output", output)
    deadline = time.monotonic() + 100
    while last_checkpoint(output / "checkpoints") == made and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    assert process.poll() is None and last_checkpoint(output / "checkpoints") != made
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=100)
    assert f"resuming after {made.name}," in stderr and stderr.count("is kept; to go on") == 1
