"""`--cost`: a run that takes a given part of full fine-tuning's FLOPs, by leaving out tokens and examples as it goes.

Tokens and examples are left out at the same share: of an epoch's tokens of all training texts that share is read, and of what
is read that share takes part in the backward. The first epoch reads every example, as nothing is known of them yet. Of texts the
tokens are drawn, of tags those are chosen that hold most of the gradient. No layer is left out: of all ways to save, fewer layers
lost most. Other splits between tokens and examples lost more (benchmarks/tasks/NOTES.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import TrainerCallback

from ..errors import require
from ..patching.active import ActiveTokens
from .teaching import LEAST, chances_for, lines

BEGIN = 0.03  # of the gradient's squared norm, what the first steps leave to chance, or out
GAIN = 1.0  # by how much the logarithm of that moves for a share that is off by one
RANGE = (1e-6, 0.95)
NEAR = 0.05  # of the cost, by which a run may miss it without a word
PACE = "pace"  # what its line of the log is found by


def by_cost(epoch: int, share: float) -> float | None:
    """Of every epoch None: its share goes by what is left to spend."""
    return None


class Price(NamedTuple):
    """FLOPs of training on every example for one epoch, in those that full fine-tuning takes.

    Attributes:
        fixed: of the forward, and what of the backward takes every token.
        tokens: of the backward, what goes by the share of active tokens.
    """

    fixed: float
    tokens: float

    @staticmethod
    def of(cost: Mapping[str, Any]) -> Price:
        """From `Report.cost`, with its layers."""
        full, tokens = cost["forward"] + cost["full"], sum(cost["layers"].values())
        every = cost["forward"] + cost["input_gradients"] + cost["weight_gradients"]
        return Price((every - tokens) / full, tokens / full)

    def at(self, tokens: float) -> float:
        """With this share of the tokens in the backward."""
        return self.fixed + self.tokens * tokens

    def share(self, budget: float, epochs: float, done: float = 0.0) -> float:
        """The share of tokens, and after the first epoch of examples, that spends a budget; it may lie outside (0, 1].

        Args:
            budget: FLOPs, in those of full fine-tuning's epoch.
            epochs: of the run.
            done: how many of them are over.
        """
        whole = max(0.0, min(1.0, epochs) - done)
        thinned = epochs - done - whole
        square, linear, rest = thinned * self.tokens, thinned * self.fixed + whole * self.tokens, budget - whole * self.fixed
        if not square:
            return rest / linear
        return (math.sqrt(max(0.0, linear**2 + 4 * square * rest)) - linear) / (2 * square)

    def mean(self, share: float, epochs: float) -> float:
        """Of a whole run at this share, an epoch."""
        whole = min(1.0, epochs)
        return (whole + (epochs - whole) * share) * self.at(share) / epochs


def check_cost(part: float, price: Price, epochs: float) -> None:
    """Raises ValueError where a run cannot take this part of full fine-tuning's FLOPs, or takes less with everything in it."""
    least, most = price.mean(LEAST, epochs), price.mean(1.0, epochs)
    told = (
        f"at least {least:.3f}, what {epochs:g} epochs take at {LEAST:.0%} of the tokens and, after the first, of the examples,"
        f" and below {most:.3f}, what all of them take"
    )
    require(least <= part < most, "train", "cost", told, part)


class Pace(TrainerCallback):
    """Holds a run to its cost.

    Before each epoch the share is found that spends what is left evenly; within it the noise by which tokens are drawn, or what
    the energy by which they are chosen leaves out, follows the share that comes. How far it has come stands in the log that
    checkpoints hold. All processes keep one pace.

    Args:
        active: those of the model that is trained.
        cost: `Report.cost`, with its layers.
        part: of full fine-tuning's FLOPs.
        epochs: of the run.
        lengths: tokens of each training example.
        shares: takes the number of an epoch that begins and the share of the one before, and tells its share where that goes by
            something else than what is left to spend.

    Attributes:
        told: what `shares` has told, of the second epoch, the third, and so on.
        planned: FLOPs of each epoch beside full fine-tuning's, as seen from the beginning.

    Raises:
        ValueError: for a part that cannot be reached, or that leaves nothing out.
    """

    def __init__(
        self, active: ActiveTokens, cost: Mapping[str, Any], part: float, epochs: float, lengths: list[int],
        shares: Callable[[int, float], float | None] = by_cost,
    ):  # fmt: skip
        self.shares = shares
        self.active, self.price, self.epochs = active, Price.of(cost), epochs
        check_cost(part, self.price, epochs)
        self.lengths = torch.tensor(lengths, dtype=torch.float64)
        every = sum(cost["layers"].values())
        self.weights = {name: flops / every for name, flops in cost["layers"].items()}
        # of the budget what is left, and what this epoch has taken; of its tokens the share that is to be read and to be active
        self.now: dict[str, Any] = {"left": part * epochs, "epoch": 0.0, "read": 1.0, "share": 1.0, "missed": BEGIN}
        self.counted = (0.0, 0.0)  # of this epoch, tokens that came and that were kept, each by what it costs
        share = self._share(0.0)
        self.planned = [min(1.0, epochs - i) * self.price.at(share) * (share if i else 1) for i in range(math.ceil(epochs))]

    @property
    def told(self) -> list[float]:
        return self.now.get("told", [])

    def missed_by(self, spent: Sequence[float]) -> str:
        """A line where a whole run's `Report.spent` is not what was asked for; empty where it is, or where the run was stopped early."""
        part, asked = sum(spent) / self.epochs, sum(self.planned) / self.epochs
        if len(spent) < len(self.planned) or self.told or abs(part / asked - 1) <= NEAR:
            return ""
        return f"cost: {part:.1%} of full fine-tuning's FLOPs in place of {asked:.1%}: the share is found step by step, and these were too few"

    def chances(self, norms: Tensor) -> Tensor:
        """With what chance each example stays in the epoch that begins, as `Teaching` asks."""
        found = chances_for(norms, self.lengths, self.now["share"])
        self.now["read"] = float(found @ self.lengths / self.lengths.sum())
        return found

    def on_train_begin(self, args, state, control, **kwargs):
        found = next((entry[PACE] for entry in state.log_history if PACE in entry), None)
        if found:
            self.now = found
        else:
            state.log_history.append({PACE: self.now, "epoch": 0.0, "step": 0})
        self._miss(self.now["missed"])

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.counted = (0.0, 0.0)
        if float(state.epoch).is_integer():  # else the run was resumed in the middle of it
            former = lines(state.log_history)
            if former:  # chance may have read more than was to be expected
                self.now["left"] -= self.now["epoch"] * (former[-1]["tokens"] / self.now["read"] - 1)
            told = self.shares(int(state.epoch), self.now["share"])
            if told is not None:
                self.now["left"] = (self.epochs - state.epoch) * told * self.price.at(told)
                self.now["told"] = [*self.told, told]
            self.now |= {"share": self._share(state.epoch), "epoch": 0.0, "read": 1.0}

    def on_step_end(self, args, state, control, **kwargs):
        counts = self.active.counts(reset=False)
        counted = tuple(sum(self.weights[name] * count[i] for name, count in counts.items()) for i in (1, 0))
        came, kept = self._of_all(*(now - before for now, before in zip(counted, self.counted)), args.device)
        self.counted = counted
        if came:
            share = kept / came
            spent = self.now["read"] * self.price.at(share) * self.epochs / state.max_steps
            self.now |= {"left": self.now["left"] - spent, "epoch": self.now["epoch"] + spent}
            self._miss(self.now["missed"] * math.exp(GAIN * (share - self.now["share"])))

    def _share(self, epoch: float) -> float:
        """What spends the rest evenly from here on."""
        return min(1.0, max(LEAST, self.price.share(self.now["left"], self.epochs, epoch)))

    def _miss(self, part: float) -> None:
        self.now["missed"] = part = min(RANGE[1], max(RANGE[0], part))
        for layer in self.active.values():
            layer.part = part if self.active.noise else 1 - part

    @staticmethod
    def _of_all(came: float, kept: float, device: torch.device) -> tuple[float, float]:
        """The sums over all processes."""
        if not (dist.is_initialized() and dist.get_world_size() > 1):
            return came, kept
        both = torch.tensor([came, kept], dtype=torch.float64).to(device)
        dist.all_reduce(both)
        return tuple(both.tolist())
