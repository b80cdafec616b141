"""Ctrl-C at a certain place of a run."""

import signal

from clm_kernels.finetune.trainer import RunTrainer


def press_ctrl_c(monkeypatch, step, times=1):
    """Ctrl-C in the middle of the given training step."""
    original, count = RunTrainer.training_step, [0]

    def training_step(self, *args, **kwargs):
        count[0] += 1
        if count[0] == step:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(RunTrainer, "training_step", training_step)
