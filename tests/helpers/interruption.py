"""A signal at a certain place of a run."""

import signal

import pytest

from clm_kernels.finetune import train
from clm_kernels.finetune.trainer import RunTrainer


def press_ctrl_c(monkeypatch, step, times=1, number=signal.SIGINT):
    """Ctrl-C, or another signal, in the middle of the given training step."""
    original, count = RunTrainer.training_step, [0]

    def training_step(self, *args, **kwargs):
        count[0] += 1
        if count[0] == step:
            for _ in range(times):
                signal.raise_signal(number)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(RunTrainer, "training_step", training_step)


def stop(config, step, times=1, number=signal.SIGINT):
    """Trains until a signal comes in the given step; what was raised."""
    with pytest.MonkeyPatch.context() as context:
        press_ctrl_c(context, step, times, number)
        with pytest.raises(KeyboardInterrupt) as raised:
            train(config, lambda line: None)
    return raised.value
