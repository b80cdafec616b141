"""`train_tasks`: several tasks on one base, each a run of its own in a folder of its own."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from traceback import clear_frames
from typing import Any, NamedTuple

from ...errors import listed, require
from ...files import write_atomically
from ...strangers import brief
from ..artifacts import RUN
from ..artifacts import TASKS as TABLE
from ..config import DEFAULTS, OPTIONS, PATHS, TrainConfig
from ..data import load_data
from ..hub import as_begun, on_hub, pinned
from ..interruption import tidied_up_after
from ..locks import locked
from ..methods import check
from ..outputs import WRITES, as_recorded, check_free, check_output, check_outside, clear, is_task_name, read_json, tasks_in
from ..parts import STDIN, with_files
from ..recipe import train
from ..report import Report
from ..saying import to_stderr
from ..sharing import Shared
from ..task_files import FILES, Tasks
from .folders import finished, is_begun
from .protocol import Say
from .seeds import scores

OF_ALL = ("model", "output", "resume", "overwrite")  # options that no task has for itself


class Trained(NamedTuple):
    """What became of several tasks.

    Attributes:
        reports: of the tasks that are trained, by their names.
        failed: what was raised in the others.
    """

    reports: dict[str, Report]
    failed: dict[str, Exception]

    def table(self) -> dict[str, Any]:
        """What stands in ``tasks.json``: the scores of each task, and the errors of those that failed."""
        told = {
            name: {"task": one.config["task"], "best_by": one.best_by, "validation": scores(one.best), "test": one.test}
            for name, one in self.reports.items()
        }
        return {"tasks": told, "failed": {name: str(error) for name, error in self.failed.items()}}


def train_tasks(config: TrainConfig, tasks: Mapping[str, Mapping[str, Any]] | None = None, say: Say = to_stderr) -> Trained:
    """Trains several tasks on one base, one after the other, each bit for bit as `train` does alone.

    The base is read once. Where tasks follow one another that replay the same layers for the same texts, the second takes over
    what these gave for the first. All options and files are checked before anything is trained. A task that fails later is
    told and left, and the others go on; `resume` then trains what is missing.

    ```python
    train_tasks(TrainConfig(model="minilm", output="ours"), {"intents": {"train": "a.jsonl"}, "spans": {"train": "b.jsonl"}})
    ```

    Args:
        config: the options of all tasks; its output is the folder in which each has one of its name.
        tasks: the options of each in place of these, its files among them; without, those of the run that is resumed.
        say: takes a line about the progress; the standard error by default.

    Raises:
        ValueError: for anything in the options or the files that cannot be right, before a file is made; under torchrun.
        Interrupted: a KeyboardInterrupt, as `train`; what is done is kept, and `resume` goes on.
    """
    common, each = _recorded(config, tasks, say) if config.run.resume else _given(config, tasks)
    output, runs = Path(common.run.output), {name: _of_task(common, name, options) for name, options in each.items()}
    with tidied_up_after(), locked(output):
        if not common.run.resume:
            check_output(common, say)
            for name, run in runs.items():
                check_outside(run, output, of=name)
            known = tasks_in(output)
            others = [name for name in runs if name not in known and (output / name).exists()]
            require(not others, "train", "names of tasks", f"of folders that are not yet in {str(output)!r}", listed(others))
        _check(runs, common.run.resume)
        if not common.run.resume:
            check_free(output, (RUN, TABLE))
            clear(output)
            write_atomically(output / RUN, json.dumps(_record(common, each), indent=2).encode())
        try:
            found = _trained(runs, say)
        finally:
            if not any(is_begun(output / name) for name in runs):
                clear(output)
        if found.reports:
            write_atomically(output / TABLE, json.dumps(found.table(), indent=2).encode())
    return found


def _trained(runs: Mapping[str, TrainConfig], say: Say) -> Trained:
    found, shared = Trained({}, {}), Shared()
    for number, (name, run) in enumerate(runs.items(), start=1):
        say(f"task {name}, {number} of {len(runs)}")
        try:
            found.reports[name] = finished(run, say, partial(train, shared=shared))
        except Exception as error:
            say(f"task {name} failed: {' '.join(str(error).split()) or type(error).__name__}")
            found.failed[name] = _without_frames(error)
        gc.collect()  # a Trainer and its model hold each other
    return found


def _given(config: TrainConfig, tasks: Mapping[str, Mapping[str, Any]] | None) -> tuple[TrainConfig, Tasks]:
    each = {name: dict(options) for name, options in (tasks or {}).items()}
    for options in each.values():
        if on_hub(options.get("train", "")):
            options["train"] = pinned(options["train"])
    _check_alone()
    require(bool(config.run.output), "train", "output", "given", "nothing")
    _check_names(config, each)
    return config, each


def _check_names(common: TrainConfig, tasks: Mapping[str, Mapping[str, Any]]) -> None:
    require(bool(tasks), "train", "tasks", "given, one or more", "none")
    for name, options in tasks.items():
        plain = "a name for a folder: letters, digits, - and _, and none that a run gives a file or folder"
        require(isinstance(name, str) and is_task_name(name), "train", "a task's name", plain, brief(name))
        wrong = [option for option in options if option in OF_ALL or option not in OPTIONS]
        require(not wrong, "train", f"the options of {name!r}", f"of one task, without {listed(OF_ALL)}", listed(wrong))
        require(options.get("train") != STDIN, "train", f"train of {name!r}", "a file", "standard input")
    folded = [name.lower() for name in tasks]
    twice = [name for name in tasks if folded.count(name.lower()) > 1]
    require(not twice, "train", "names of tasks", "different in more than capitals", listed(twice))
    given = [option for option in FILES if common.options()[option]]
    require(not given, "train", "files", "named for each task", listed(given))


def _check_alone() -> None:
    processes = os.environ.get("WORLD_SIZE", "1")
    require(processes == "1", "train", "tasks", "trained each by itself under torchrun", f"{processes} processes")


def _of_task(common: TrainConfig, name: str, options: Mapping[str, Any]) -> TrainConfig:
    return common.beside(**options, output=str(Path(common.run.output) / name), resume=False, overwrite=False)


def _check(runs: Mapping[str, TrainConfig], resume: bool) -> None:
    """All that can be known of options and files, but of those that go on, before the first is trained."""
    for name, run in runs.items():
        if not (resume and is_begun(Path(run.run.output))):
            try:
                check(run)
                with with_files(run.data) as data:
                    load_data(data, run.run.seed)
            except ValueError as error:
                raise ValueError(f"train: {name!r} must be a task that can be trained, got: {error}") from error


def _record(common: TrainConfig, tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    each = {name: {option: _absolute(option, value) for option, value in told.items()} for name, told in tasks.items()}
    return {
        "config": common.absolute().options(),
        "asked": common.options(),
        "given": sorted(common.given),
        "tasks": each,
        WRITES: [RUN, TABLE],
    }


def _absolute(option: str, value: Any) -> Any:
    return os.path.abspath(value) if option in PATHS and value and not on_hub(value) else value


def _recorded(
    config: TrainConfig, tasks: Mapping[str, Mapping[str, Any]] | None, say: Say
) -> tuple[TrainConfig, Tasks]:  # fmt: skip
    """The options of the run in the folder, which goes on."""
    _check_alone()
    output = Path(config.run.output)
    each = tasks_in(output)
    require(bool(each), "train", "output", "the folder of several tasks to resume", repr(str(output)))
    _check_names(TrainConfig(), each)
    for name, options in (tasks or {}).items():
        asked = {option: _absolute(option, value) for option, value in options.items()}
        if name in each and on_hub(asked.get("train", "")):
            asked["train"] = as_begun(asked["train"], each[name].get("train", ""), say)
        require(asked == each.get(name), "train", f"the options of {name!r}", "as in the run to resume", asked)
    done = (output / TABLE).is_file() and not read_json(output / TABLE).get("failed")
    require(not done, "train", "output", "an unfinished run to resume", f"{str(output)!r}, which is finished")
    common = as_recorded(config, output)
    given = read_json(output / RUN).get("given")
    known = {"keep_checkpoints", *(name for name in given if name in DEFAULTS)} if isinstance(given, list) else ()
    return TrainConfig(**{name: common.options()[name] for name in known} | {"output": str(output), "resume": True}), each


def _without_frames(error: Exception) -> Exception:
    """The error without what its frames hold: a model, and all that goes with it."""
    link: BaseException | None = error
    while link is not None:
        clear_frames(link.__traceback__)
        link = link.__cause__ or link.__context__
    return error
