"""Records in training which words carry the gradient: some batches of the first and of the last epoch are watched."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

from torch import nn
from transformers import TrainerCallback

from ...files import write_atomically
from ...patching.active import ActiveTokens
from ...strangers import MEGABYTE, read_json
from ..artifacts import ACTIVE
from .reading import Reader
from .table import ActiveWords
from .tally import Tally
from .watching import Watch

BATCHES = 64  # of an epoch that are watched
LARGEST = 64 * MEGABYTE  # of what a checkpoint keeps of it


class Recorder(TrainerCallback):
    """Watches the first 64 batches of the first epoch and of the last; all other steps cost what they cost without it.

    Where training may stop early, every epoch after the first is watched, and the last one counts. Of a single epoch the two
    halves are what is early and late. What has been seen goes into each checkpoint, so that a resumed run goes on with it.

    Args:
        model: patched; not what may be wrapped around it.
        read: finds the words of the training texts.
        patience: whether training may stop early.
        checkpoint: the one from which the run goes on, if it does.
        say: is told what cannot be recorded.
    """

    def __init__(
        self, model: nn.Module, active: ActiveTokens, read: Reader, patience: bool, checkpoint: Path | None, say: Callable[[str], None]
    ):  # fmt: skip
        self._model, self._active, self._read, self._patience = model, active, read, patience
        self._watch: Watch | None = None
        self._tally = self.late = Tally()
        self.early: Tally | None = Tally()
        if checkpoint is not None:
            self._go_on(checkpoint / ACTIVE, say)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        if self._watch is not None:
            self._watch.restore()

    def words(self, energy: str) -> ActiveWords:
        """What has been seen."""
        return ActiveWords.of(self.early, self.late, energy, self._read.special)

    def on_step_begin(self, args, state, control, **kwargs):
        window = window_of(state.global_step, state.max_steps, args.num_train_epochs, self._patience)
        if self._watch is not None or window is None:
            return
        if window and self.late.since != window:
            self.late = Tally(window)
        tally = self.late if window else self.early
        if tally is not None and tally.batches < BATCHES:
            self._tally, self._watch = tally, Watch(self._model, self._active)

    def on_substep_end(self, args, state, control, **kwargs):
        if self._watch is not None and self._tally.batches + len(self._watch.batches) >= BATCHES:
            self._stop()

    def on_step_end(self, args, state, control, **kwargs):
        self.on_substep_end(args, state, control)
        if window_of(state.global_step, state.max_steps, args.num_train_epochs, self._patience) != self._tally.since:
            self._stop()

    def on_save(self, args, state, control, **kwargs):
        self._stop()
        content = {"early": self.early and self.early.state(), "late": self.late.state()}
        write_atomically(Path(args.output_dir) / f"checkpoint-{state.global_step}" / ACTIVE, json.dumps(content).encode())

    def on_train_end(self, args, state, control, **kwargs):
        self._stop()

    def _stop(self) -> None:
        if self._watch is not None:
            self._watch.restore()
            self._tally.add(self._watch.batches, self._read)
            self._watch = None

    def _go_on(self, path: Path, say: Callable[[str], None]) -> None:
        try:
            found = read_json(path, "Recorder", "what was watched", most=LARGEST)
            self.early, self.late = found["early"] and Tally(**found["early"]), Tally(**found["late"])
        except (OSError, ValueError, KeyError, TypeError):
            self.early = None
            say(f"{path} cannot be read: which words carried the gradient in the first epoch is left out")


def window_of(step: int, steps: int, epochs: float, patience: bool) -> int | None:
    """The step with which the epoch begins for which a step is watched: 0 for the first epoch; None if it is not watched."""
    epoch = math.floor(steps / epochs + 1e-6) if epochs > 1 else (steps + 1) // 2
    if step < epoch:
        return 0
    if patience and epochs > 1:
        return step // epoch * epoch
    last = epoch * (math.ceil(epochs) - 1) if epochs > 1 else epoch
    return last if step >= last else None
