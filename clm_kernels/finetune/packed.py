"""`--packing`: texts of a batch share rows in training and validation, and what part of the tokens was padding is counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from transformers import TrainerCallback

from ..models.packing import PackedTokens, Packing, pack_batches

COUNTS = "packing"  # what its line of the log is found by


class Packed(TrainerCallback):
    """Packs the batches while training goes on, and counts those of training.

    The counts stand in the log that checkpoints hold, so that a run that goes on counts on. Of several processes each counts its
    own batches, and what is written is process 0's.

    Args:
        model: what is trained, patched or adapted; not what may be wrapped around it.
    """

    def __init__(self, model: nn.Module):
        self._model = model
        self._packing: Packing | None = None
        self.counts: dict[str, int] = PackedTokens()._asdict()

    def __enter__(self) -> Packed:
        self._packing = pack_batches(self._model)
        return self

    def __exit__(self, *_: object) -> None:
        if self._packing is not None:
            self._packing.restore()

    def on_train_begin(self, args, state, control, **kwargs):
        found = next((entry[COUNTS] for entry in state.log_history if COUNTS in entry), None)
        if found is None:
            state.log_history.append({COUNTS: self.counts, "epoch": 0.0, "step": 0})
        else:
            self.counts = found

    def on_step_end(self, args, state, control, **kwargs):
        if self._packing is not None:
            came, self._packing.tokens = self._packing.tokens, PackedTokens()
            for name, count in came._asdict().items():
                self.counts[name] += count

    def shares(self, say: Callable[[str], None]) -> dict[str, float]:
        """What part of the tokens was padding, as `Report.packing` has it; said too."""
        found = shares(self.counts)
        say(
            f"packed: {found['after']:.1%} of the tokens that ran in training were padding, {found['before']:.1%} without packing"
        )
        return found


def shares(counts: dict[str, Any]) -> dict[str, float]:
    """``before``: the padding's part of padded batches; ``after``: of what ran."""
    return {
        name: 1 - counts["real"] / counts[places] if counts[places] else 0.0
        for name, places in (("before", "padded"), ("after", "run"))
    }
