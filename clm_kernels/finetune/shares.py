"""How many tokens took part in the backward of each epoch, and what it cost: lines of the Trainer's log."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import mean
from typing import Any

from transformers import TrainerCallback

from ..patching.active import ActiveTokens
from .partial_epochs import lengths

EPOCH, RUNNING = "active_tokens", "active_counts"  # what a line of the log is found by


class ActiveShares(TrainerCallback):
    """Writes and says a line at the end of each epoch.

    The lines stand in the log that checkpoints hold, and so do the counts of an epoch that a checkpoint is made in: a run that
    goes on counts on. Of several processes each counts its own batches' tokens, and what is written is process 0's.

    Args:
        active: those of the model that is trained.
        cost: as `Report.cost` has it.
        say: takes the line.
    """

    def __init__(self, active: ActiveTokens, cost: Mapping[str, Any], say: Callable[[str], None]):
        self.active, self.cost, self.say = active, cost, say
        self.before: dict[str, tuple[int, int]] = {}  # counts of this epoch from before the run was resumed

    def on_train_begin(self, args, state, control, **kwargs):
        self.active.counts()
        last = _pop_running(state)
        if last and last["step"] == state.global_step:
            self.before = last[RUNNING]
            if float(state.epoch).is_integer():
                self.on_epoch_end(args, state, control)

    def on_step_end(self, args, state, control, **kwargs):
        if control.should_save:
            _pop_running(state)
            state.log_history.append({RUNNING: self._counts(reset=False), "epoch": state.epoch, "step": state.global_step})

    def on_epoch_end(self, args, state, control, **kwargs):
        _pop_running(state)
        shares = {name: kept / came for name, (kept, came) in self._counts(reset=True).items()}
        self.before = {}
        if not shares:  # torch.compile counts nothing
            return
        line = {"epoch": state.epoch, **costs(shares, self.cost), "layers": shares}
        state.log_history.append({EPOCH: line, "epoch": state.epoch, "step": state.global_step})
        flops = "" if line["flops"] is None else f", {line['flops']:.2f} of full fine-tuning's FLOPs"
        self.say(f"epoch {state.epoch:g} of {args.num_train_epochs:g}: backward at {line['tokens']:.0%} of the tokens{flops}")

    def _counts(self, reset: bool) -> dict[str, tuple[int, int]]:
        """Name -> tokens of this epoch that were active, and all; in the model's order, as sums go by it."""
        counts = self.before, self.active.counts(reset)
        parts = {name: [each[name] for each in counts if name in each] for name in self.active}
        return {name: (sum(kept for kept, _ in each), sum(came for _, came in each)) for name, each in parts.items() if each}

    def epochs(self, log_history: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The lines of all epochs, with the layers in the model's order, which a checkpoint's log has lost."""
        lines = [entry[EPOCH] for entry in log_history if EPOCH in entry]
        order = {name: i for i, name in enumerate(self.active)}
        return [line | {"layers": dict(sorted(line["layers"].items(), key=lambda layer: order[layer[0]]))} for line in lines]


def costs(shares: Mapping[str, float], cost: Mapping[str, Any]) -> dict[str, float | None]:
    """``tokens``, the share of them over all linear layers, each by what it costs, and ``flops``, as `Report.active` has them.

    Where the cost is not known, ``tokens`` is the mean over the layers that leave some out.
    """
    layers = cost.get("layers")
    if not layers:
        return {"tokens": mean(shares.values()), "flops": None}
    saved = sum((1 - share) * layers[name] for name, share in shares.items())
    backward = cost["input_gradients"] + cost["weight_gradients"]
    return {"tokens": 1 - saved / sum(layers.values()), "flops": (backward - saved) / cost["full"]}


def spent(
    cost: Mapping[str, Any], active: Sequence[Mapping[str, Any]], examples: Sequence[Mapping[str, float]], epochs: float,
    replayed: float = 0.0,
) -> list[float]:  # fmt: skip
    """FLOPs of each epoch beside full fine-tuning's whole epoch on all examples, as `Report.spent` has them.

    Args:
        cost, active, examples: as `Report` has them, the latter two empty where nothing was left out.
        epochs: how many have been trained; of the last one perhaps a part.
        replayed: part of the layers that ran before the first epoch, which pays for them, and in none after it.
    """
    lines = math.ceil(epochs - 1e-6)
    if not cost or any(len(given) not in (0, lines) for given in (active, examples)):
        return []
    backward = [line["flops"] * cost["full"] for line in active] or [cost["share"] * cost["full"]] * lines
    read = [line["tokens"] for line in examples] or [1.0] * lines
    before, forward = replayed * cost["forward"], (1 - replayed) * cost["forward"]
    whole, long = cost["forward"] + cost["full"], lengths(lines, epochs)
    found = [size * part * (forward + flops) / whole for size, part, flops in zip(long, read, backward, strict=True)]
    return [found[0] + before / whole, *found[1:]] if found else []


def _pop_running(state) -> dict[str, Any] | None:
    """Takes the counts of an unfinished epoch out of the log."""
    found = next((entry for entry in state.log_history if RUNNING in entry), None)
    if found is not None:
        state.log_history.remove(found)
    return found
