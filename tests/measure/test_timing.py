"""How time is taken on a GPU: a call's time on the device, without the time that the host needs to enqueue it."""

import time
from dataclasses import dataclass, field

import pytest
import torch

from clm_kernels.measure.bench import Timer, rotated, timing

CYCLES = 1.5e9  # a second, of the GPU that is made up here


@dataclass
class Gpu:
    """A GPU and its host, both with a clock: what is enqueued begins when the host has said so and the GPU is free."""

    host: float = 0.0
    free: float = 0.0
    slept: list[float] = field(default_factory=list)

    def enqueue(self, seconds: float) -> None:
        self.free = max(self.free, self.host) + seconds

    def sleep(self, cycles: int) -> None:
        self.slept.append(cycles / CYCLES)
        self.enqueue(cycles / CYCLES)

    def synchronize(self) -> None:
        self.host = max(self.host, self.free)

    def call(self, kernels: int, on_host: float, on_device: float):
        def run() -> None:
            for _ in range(kernels):
                self.host += on_host / kernels
                self.enqueue(on_device / kernels)

        return run

    def event(self, enable_timing: bool):
        return Event(self)


@dataclass
class Event:
    gpu: Gpu
    at: float = 0.0

    def record(self) -> None:
        self.gpu.enqueue(0.0)
        self.at = self.gpu.free

    def query(self) -> bool:
        return self.gpu.host >= self.at

    def synchronize(self) -> None:
        self.gpu.host = max(self.gpu.host, self.at)

    def elapsed_time(self, end) -> float:
        return 1e3 * (end.at - self.at)


@pytest.fixture
def gpu(monkeypatch):
    made = Gpu()
    for name, replacement in (("Event", made.event), ("_sleep", made.sleep), ("synchronize", made.synchronize)):
        monkeypatch.setattr(torch.cuda, name, replacement)
    monkeypatch.setattr(time, "perf_counter", lambda: made.host)
    return made


def timer(**options):
    return Timer(torch.device("cuda"), flush=False, **options)


@pytest.mark.parametrize("on_host", [2e-6, 5e-4, 2e-2])
@pytest.mark.parametrize("kernels", [1, 224])
def test_the_hosts_time_is_no_part_of_a_call(gpu, kernels, on_host):
    timed = timer().of(gpu.call(kernels, on_host, on_device=3e-5))
    assert [timed() for _ in range(3)] == pytest.approx([3e-5] * 3)
    assert max(gpu.slept[-3:]) == pytest.approx(timing.MARGIN * on_host + timing.SLACK)


def test_a_host_that_turns_slower_is_waited_for(gpu):
    """By up to 8 times as long; the wait that was enough is kept."""
    on_host = [5e-4]
    timed = timer().of(lambda: gpu.call(10, on_host[0], 1e-5)())
    assert timed() == pytest.approx(1e-5)
    on_host[0], tries = 3e-3, len(gpu.slept)
    assert timed() == pytest.approx(1e-5) and len(gpu.slept) == tries + 3
    assert timed() == pytest.approx(1e-5) and len(gpu.slept) == tries + 4


def test_a_call_that_waits_for_the_gpu_is_timed_all_the_same(gpu):
    def call():
        gpu.call(1, 1e-4, 2e-3)()
        gpu.synchronize()

    timed = timer().of(call)
    before = len(gpu.slept)
    assert timed() == pytest.approx(2e-3) and len(gpu.slept) == before + timing.TRIES
    for _ in range(5):  # after which the waits grow no more
        assert timed() == pytest.approx(2e-3)
    assert gpu.slept[before + timing.TRIES :] == pytest.approx(5 * [timing.wait_for([1e-4 + 2e-3])])


def test_a_whole_step_has_the_hosts_time(gpu):
    seconds = rotated({"host": gpu.call(9, 6e-3, 1e-3), "device": gpu.call(1, 1e-3, 6e-3)}, timer(whole=True), rounds=3)
    assert seconds["host"] == pytest.approx([6e-3 + 1e-3 / 9] * 3) and seconds["device"] == pytest.approx([7e-3] * 3)
    assert not gpu.slept
