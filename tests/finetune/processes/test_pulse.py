"""A process learns that another has left in an error, or that whoever holds the store answers no more."""

import itertools
import os
import queue
import signal
import threading
from types import SimpleNamespace

import needs_datasets  # noqa: F401

# isort: split
import pytest
import torch.distributed as dist
from forked import start

from clm_kernels.finetune import checkpoints
from clm_kernels.finetune.processes import pulse
from clm_kernels.finetune.processes.pulse import Pulse

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="needs torch.distributed")
DEADLINE = 60  # seconds


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(pulse, "BEAT", 0.05)
    monkeypatch.setattr(pulse, "GRACE", 0.2)
    monkeypatch.setattr(pulse, "RUNS", itertools.repeat(0))  # all processes are this one
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")


@pytest.fixture
def store(monkeypatch):
    held = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("MASTER_PORT", str(held.port))
    return held


def begun(rank, processes=2):
    """A pulse, and where it puts whom it has lost."""
    lost = queue.Queue()
    beating = Pulse(rank, processes, lost.put)
    beating.start()
    return beating, lost


def test_a_process_that_leaves_in_an_error_ends_the_others(store):
    pulses = [begun(rank, 3) for rank in range(3)]
    pulses[1][0].stop("no memory")
    for rank in (0, 2):
        assert pulses[rank][1].get(timeout=DEADLINE) == {1: "no memory"}
        pulses[rank][0].stop()
    assert pulses[1][1].empty()


def test_a_checkpoint_is_finished_before_a_process_is_ended(store):
    (first, lost), (second, _) = begun(0), begun(1)
    with pulse.sealing:
        second.stop("no memory")
        with pytest.raises(queue.Empty):
            lost.get(timeout=2)
    assert lost.get(timeout=DEADLINE) == {1: "no memory"}
    first.stop()
    assert not pulse.sealing.locked()


def test_a_checkpoint_that_takes_too_long_is_left(store, monkeypatch):
    monkeypatch.setattr(pulse, "SEALING", 0.5)
    (first, lost), (second, _) = begun(0), begun(1)
    with pulse.sealing:
        second.stop("no memory")
        assert lost.get(timeout=DEADLINE) == {1: "no memory"}
    first.stop()


def test_a_checkpoint_is_sealed_and_older_ones_dropped_under_that_lock(tmp_path, monkeypatch):
    seen = []
    for name in ("seal", "drop_older"):
        monkeypatch.setattr(checkpoints, name, lambda *_, name=name, **__: seen.append((name, pulse.sealing.locked())))
    state = SimpleNamespace(is_world_process_zero=True, global_step=3, best_global_step=None)
    checkpoints.Sealing([], {}).on_save(SimpleNamespace(output_dir=tmp_path), state, None)
    assert seen == [("seal", True), ("drop_older", True)] and not pulse.sealing.locked()


def test_a_process_that_ends_well_is_not_missed(store, monkeypatch):
    monkeypatch.setattr(pulse, "PATIENCE", 2.0)
    (first, lost), (second, _) = begun(0), begun(1)
    second.stop()
    with pytest.raises(queue.Empty):
        lost.get(timeout=4)
    assert first.gone() == {}
    first.stop()


def test_a_store_that_falls_silent(monkeypatch):
    """It blocks who asks it, so the thread that beats finds nothing out."""
    monkeypatch.setattr(pulse, "PATIENCE", 2.0)
    told, tells = os.pipe()
    holder = start(_hold, tells)
    try:
        monkeypatch.setenv("MASTER_PORT", os.read(told, 16).decode())
        beating, lost = begun(1)
        os.kill(holder, signal.SIGSTOP)
        assert lost.get(timeout=DEADLINE) == {0: ""}
        stopping = threading.Thread(target=beating.stop, daemon=True)
        stopping.start()
        stopping.join(DEADLINE)
        assert not stopping.is_alive()
    finally:
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)


def _hold(tells):
    held = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    os.write(tells, str(held.port).encode())
    threading.Event().wait(DEADLINE)
