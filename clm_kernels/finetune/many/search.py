"""`--search`: learning rate, density and epochs by trials on the validation data, which Optuna proposes."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ...errors import require
from ...extras import needs
from ..artifacts import TRIALS
from ..config import TrainConfig
from ..data import find_task
from ..diverging import Diverged
from ..interruption import unstoppable
from ..methods import method_of, resolved
from ..outputs import inner_folders
from ..parts import with_files
from ..report import Report
from ..saying import SayOnce
from ..tasks import Task
from .folders import finished, inner, keep, remove, several_in
from .protocol import Say, Train
from .trials import Trial, read_trials, write_trials

RATES, DENSITIES, EPOCHS = 10, 4, 2  # how far from where it starts each is searched, times and parts
DIGITS = 3  # of what is tried


class Range(NamedTuple):
    """Where an option is searched, and the value that the first trial has."""

    start: float
    low: float
    high: float

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int)


def train_search(config: TrainConfig, say: Say, train: Train) -> Report:
    """Trains `Run.search` trials, scored by validation alone, and then the best one with the test data, which is kept.

    Returns:
        The report of that one, which has all trials under `Report.search`.
    """
    needs("optuna", "train")
    say = SayOnce(say)
    folders = [*(f"trial-{i + 1}" for i in range(config.run.search)), "trial-best"]
    with several_in(config, say, folders) as (whole, given):
        output = Path(whole.run.output)
        with with_files(whole.data) as data:
            space = space_of(whole, given, find_task(data))
        trials = read_trials(output / TRIALS, tuple(space)) if (output / TRIALS).is_file() else []
        while len(trials) < whole.run.search:
            options = proposed(space, trials, whole.run.seed)
            say(
                f"trial {len(trials) + 1} of {whole.run.search}: {', '.join(f'{name} {value:g}' for name, value in options.items())}"
            )
            tried = inner(whole, f"trial-{len(trials) + 1}", test="", **options)
            trials.append(_tried(tried, options, say, train))
            write_trials(output / TRIALS, trials)
            remove(Path(tried.run.output))
        best = max(range(len(trials)), key=lambda i: trials[i].score)  # of equal ones the first
        say(f"trial {best + 1} is the best, and is trained once more, with the test data")
        chosen = inner(whole, "trial-best", **trials[best].options)
        report = finished(chosen, say, train)
        report.search = {
            "best": best + 1,
            "trials": [{**trial.options, "validation": trial.score, "seconds": trial.seconds} for trial in trials],
            "space": {name: {"from": one.low, "to": one.high} for name, one in space.items()},
        }
        with unstoppable():  # with its report the search is done, and goes on with nothing
            keep(Path(chosen.run.output), report, output=whole.run.output)
            for folder in inner_folders(output):
                remove(folder)
    return report


def _tried(config: TrainConfig, options: dict[str, Any], say: Say, train: Train) -> Trial:
    """A trial that diverges has the score 0, which is no reason to end the search."""
    began = time.perf_counter()
    try:
        report = finished(config, say, train)
    except Diverged as error:
        say(f"{config.run.output}: {error}")
        return Trial(options, 0.0, time.perf_counter() - began)
    return Trial(options, report.best[report.best_by], report.seconds["training"])


def space_of(config: TrainConfig, given: Collection[str], task: Task) -> dict[str, Range]:
    """What is searched: around the defaults, all that was not given and has an effect.

    Raises:
        ValueError: if nothing is left.
    """
    start, method = resolved(config, task), method_of(config)
    rate, density, epochs = start.training.learning_rate, start.selecting.density, start.training.epochs
    space = {}
    if rate is not None and "learning_rate" not in given:
        space["learning_rate"] = Range(rate, rate / RATES, rate * RATES)
    bound = config.training.cost is not None  # by what can be reached with these epochs and this density
    if density is not None and method.selects and not bound and not {"density", "backward", "selection"} & set(given):
        space["density"] = Range(density, density / DENSITIES, min(1.0, density * DENSITIES))
    if not bound and "epochs" not in given:
        least = 2 if config.training.skip else 1
        space["epochs"] = Range(epochs, max(least, math.ceil(epochs / EPOCHS)), max(least, round(epochs * EPOCHS)))
    require(bool(space), "train", "search", "left out where learning rate, density and epochs are given", config.run.search)
    return space


def proposed(space: Mapping[str, Range], trials: Sequence[Trial], seed: int) -> dict[str, Any]:
    """The next options: the defaults first, then by Optuna's TPE, from the trials and the seed alone, so that a break changes nothing."""
    if not trials:
        return {name: one.start for name, one in space.items()}
    optuna = needs("optuna", "train")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    integer, number = optuna.distributions.IntDistribution, optuna.distributions.FloatDistribution
    known = {
        name: integer(one.low, one.high) if one.whole else number(one.low, one.high, log=True) for name, one in space.items()
    }
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed + len(trials)))
    for trial in trials:
        study.add_trial(optuna.trial.create_trial(params=trial.options, distributions=known, value=trial.score))
    found = study.ask(known).params
    return {name: found[name] if one.whole else _rounded(found[name], one) for name, one in space.items()}


def _rounded(value: float, within: Range) -> float:
    return min(max(float(f"{value:.{DIGITS}g}"), within.low), within.high)
