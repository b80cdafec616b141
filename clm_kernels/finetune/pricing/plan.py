"""`--minutes`: what of a run fits into a time. First tokens and examples are left out, as `--cost` does it, then epochs.

How long steps take is measured before the first one, and what was found is a number of epochs and a cost, by which the run goes as if they
had been given. So the learning rate ends where the steps end. Before each later epoch the share is found again, by what the last one took
(`Kept`); these shares are recorded, so that the same run can be done again without a clock.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ...errors import refuse
from ..teaching import LEAST

LOWEST = 0.3  # share of tokens and examples; a lower one was not compared with fewer epochs (benchmarks/tasks/NOTES.md)
KEPT = 0.05  # part of the time for what is not measured: checkpoints and the result that are written, the Trainer's own work
EPOCHS = 10  # parts of an epoch by which epochs are left out; one is the least


class Speed(NamedTuple):
    """Seconds that were measured.

    Attributes:
        batch: of each batch in training, whatever is in it.
        token: of each of its tokens, for the forward and what of the backward takes every token.
        active: of each token that takes part in the backward; None where none can be left out.
        read: of each token that is read without a backward.
    """

    batch: float
    token: float
    active: float | None
    read: float


class Load(NamedTuple):
    """What a run has to do.

    Attributes:
        batches, tokens: of an epoch, the tokens with padding.
        validation: tokens that each validation reads.
        every: epochs from one validation to the next.
        end: tokens that are read when training is over.
    """

    batches: int
    tokens: int
    validation: int
    every: float
    end: int


class Plan(NamedTuple):
    """What fits.

    Attributes:
        share: of the tokens in the backward and, after the first epoch, of the examples; None: all of them.
        training, judging: seconds of both.
    """

    epochs: float
    share: float | None
    training: float
    judging: float


def plan_within(minutes: float, before: float, epochs: float, speed: Speed, load: Load) -> Plan:
    """The most of a run that ends in time.

    Args:
        before: seconds that are gone already.
        epochs: that were asked for.

    Raises:
        ValueError: if the least of it does not, with what that takes.
    """
    left = minutes * 60 * (1 - KEPT) - before
    lowest = 1.0 if speed.active is None else LOWEST
    fitting = (fewer for fewer in _epochs(epochs) if _seconds(fewer, lowest, speed, load) <= left)
    found = next(fitting, None)
    if found is None:
        *_, fewest = _epochs(epochs)
        least = (before + _seconds(fewest, lowest, speed, load)) / (1 - KEPT) / 60
        told = f"at least {math.ceil(100 * least) / 100:g}, what {fewest:g} epochs take here"
        refuse("train", "minutes", told, f"{minutes:g}")
    share = _share(left, found, lowest, speed, load)
    return Plan(found, share, _training(found, share or 1.0, speed, load), _judging(found, speed, load))


def _epochs(asked: float) -> Iterator[float]:
    """All of them, then ever fewer."""
    yield asked
    yield from (parts / EPOCHS for parts in range(math.ceil(asked * EPOCHS) - 1, 0, -1))


def _share(left: float, epochs: float, lowest: float, speed: Speed, load: Load) -> float | None:
    """The largest that takes no longer; None where all tokens and examples do."""
    if _seconds(epochs, 1.0, speed, load) <= left:
        return None
    return largest_share(left, lambda share: _seconds(epochs, share, speed, load), lowest)


def largest_share(left: float, seconds: Callable[[float], float], lowest: float = LEAST) -> float:
    """With which a run ends in time; the lowest where none does.

    Args:
        seconds: what it takes with a share.
    """
    if seconds(1.0) <= left:
        return 1.0
    low, high = lowest, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if seconds(middle) <= left else (low, middle)
    return low


def seconds_of_epoch(first: bool, share: float, speed: Speed, load: Load) -> float:
    """What one takes, with its validations."""
    token = speed.token + (speed.active or 0.0) * share
    read = load.tokens * (1.0 if first else share)
    return load.batches * speed.batch + read * token + math.ceil(1 / load.every - 1e-9) * load.validation * speed.read


def seconds_of_rest(epochs: float, share: float, speed: Speed, load: Load) -> float:
    """What so many epochs after the first take, and the end of the run."""
    token = speed.token + (speed.active or 0.0) * share
    return epochs * (load.batches * speed.batch + share * load.tokens * token) + _judging(epochs, speed, load)


def _seconds(epochs: float, share: float, speed: Speed, load: Load) -> float:
    return _training(epochs, share, speed, load) + _judging(epochs, speed, load)


def _training(epochs: float, share: float, speed: Speed, load: Load) -> float:
    whole = min(1.0, epochs)  # the first epoch reads every example
    read = whole + (epochs - whole) * share
    token = speed.token + (speed.active or 0.0) * share
    return epochs * load.batches * speed.batch + read * load.tokens * token


def _judging(epochs: float, speed: Speed, load: Load) -> float:
    return (math.ceil(epochs / load.every - 1e-9) * load.validation + load.end) * speed.read
