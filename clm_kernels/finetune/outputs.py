"""The folder of one run: what stands in it, what is left of it after a failure, how it is read again."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, get_args, get_type_hints

from .. import strangers
from .._version import __version__
from ..errors import refuse, require
from ..files import write_atomically
from .artifacts import (
    ACTIVE,
    ADAPTER,
    ADAPTER_CONFIG,
    CARD,
    CHECKPOINTS,
    COST_PICTURE,
    DELTA,
    EVALUATIONS,
    GROUPS,
    INDEX,
    INNER,
    OF_EVALUATION,
    PAGE,
    PICTURE,
    REPORT,
    RUN,
    RUN_FILE,
    SCOPE,
    SCORES,
    SELECTION,
    SHARDS,
    TASKS,
    TRIALS,
    WHOLE,
)
from .checkpoints import drop_all_but, drop_checkpoints, drop_unfinished, last_checkpoint, usable_checkpoint
from .config import OPTIONS, PARTS, TrainConfig
from .hub import on_hub
from .locks import LOCK, OWNER

OF_TRANSFORMERS = (
    "config.json", WHOLE, SHARDS, INDEX, "clm_pooled.py",
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "tokenizer.model", "vocab.json", "vocab.txt", "merges.txt",
)  # fmt: skip
RESULTS = (
    RUN_FILE, TRIALS, TASKS, DELTA, ADAPTER, ADAPTER_CONFIG, CARD, SELECTION, GROUPS, ACTIVE, COST_PICTURE, SCOPE, SCORES, PICTURE,
    PAGE,
)  # fmt: skip
OURS = (RUN, REPORT, *RESULTS, *OF_TRANSFORMERS)
WRITES, FOLDERS = "writes", "folders"  # in a run's record: names of files, and of the folders of several runs
WRITING = ".writing-"  # how a folder begins that is moved over when all is in it
DRAWN = "?" * 8  # what tempfile adds to a name
HALF = tuple(f".{name[:32]}.{DRAWN}" for name in (*OURS, OWNER))  # what stays of a write that was killed
BESIDE = (RUN, SELECTION, SCORES)  # what a run writes once, and reads again to go on
COLUMNS = ("text_column", "label_column", "tokens_column", "tags_column", "labels_column", "label_separator")
TASK_NAME = re.compile(r"\w[\w.-]{0,99}")
READ = ("model", "train", "validation", "test", "selection")  # options that name what a run reads
FREE = ("resume", "overwrite", "output", "keep_checkpoints")  # options that may be others when a run goes on


def check_output(config: TrainConfig, say: Callable[[str], None]) -> tuple[TrainConfig, Path | None]:
    """The config to run, the recorded one where it resumes, and the checkpoint to go on from.

    Raises:
        ValueError: if the folder holds something that would be lost, or nothing to resume from, or another run.
    """
    output = Path(config.run.output)
    if not is_main() and not config.run.resume:  # process 0 looks, and may have made the folder by now
        return config.absolute(), None
    require(not output.exists() or output.is_dir(), "train", "output", "a folder", f"the file {str(output)!r}")
    if config.run.resume:
        checkpoint = _checkpoint(output, say)  # before what is recorded is read, which it vouches for
        return as_recorded(config, output), checkpoint
    if output.is_dir() and not all(_left_by_a_kill(path.name) for path in output.iterdir()):
        a_run = (output / RUN).is_file()
        advice = "resume goes on with the run there, overwrite replaces it" if a_run else "it is no run's"
        require(a_run and config.run.overwrite, "train", "output", "a new or empty folder", f"{str(output)!r} ({advice})")
    check_outside(config, output)
    return config.absolute(), None


def check_outside(config: TrainConfig, output: Path, of: str = "") -> None:
    """Raises ValueError if anything that a run reads lies in the folder that is emptied for it.

    Args:
        of: the task whose config it is, of several in the folder.
    """
    options, folder = config.options(), os.path.realpath(output)
    for name in READ:
        path = options[name]
        if path and not on_hub(path):
            inside = os.path.join(os.path.realpath(path), "").startswith(os.path.join(folder, ""))
            argument = f"{name} of {of!r}" if of else name
            require(not inside, "train", argument, f"outside of the output folder {str(output)!r}", repr(path))


def _left_by_a_kill(name: str) -> bool:
    """Whether it is what a run leaves that was killed before it wrote its record."""
    return name in (LOCK, OWNER) or any(fnmatch(name, pattern) for pattern in HALF)


def _checkpoint(output: Path, say: Callable[[str], None]) -> Path:
    require((output / RUN).is_file(), "train", "output", "the folder of a run to resume", repr(str(output)))
    finished = (output / REPORT).is_file()
    require(not finished, "train", "output", "an unfinished run to resume", f"{str(output)!r}, which is finished")
    found, wrong = usable_checkpoint(output / CHECKPOINTS, beside(output), say)
    if (output / CHECKPOINTS).is_symlink():
        wrong = f"{CHECKPOINTS} is a link, which is not followed"
    without = f"{str(output)!r} without one" + (f" ({wrong})" if wrong else "")
    if found is None:
        refuse("train", "output", "a run with a whole checkpoint", without)
    return found


def as_recorded(config: TrainConfig, output: Path) -> TrainConfig:
    """The config of the run in a folder, to go on with it; the one that asks for that may not ask for anything else."""
    config = config.absolute()
    recorded, given, default = recorded_config(output), config.options(), TrainConfig().options()
    asked = read_json(output / RUN).get("asked", {})
    for name, value in recorded.options().items():
        if name not in FREE:
            unsaid = given[name] == default[name] and name not in config.given
            same = unsaid or given[name] in (value, asked.get(name, value))
            require(same, "train", name, f"{value!r} as in the run to resume", repr(given[name]))
    keep = recorded.run.keep_checkpoints or given["keep_checkpoints"]
    return replace(recorded, output=given["output"], keep_checkpoints=keep, resume=True)


def beside(output: Path) -> list[Path]:
    """The files outside of the checkpoints that a run goes on with."""
    return [output / name for name in BESIDE]


@contextmanager
def run_folder(config: TrainConfig, data: dict, asked: dict, checkpoint: Path | None, files: Iterable[str]) -> Iterator[Path]:
    """The output folder, with the record of the run in it: config, what was asked for, and what is known of its data.

    After an error before the first checkpoint, everything is taken away again; after a later one, everything that
    `resume` needs stays.

    Args:
        asked: the options as they were given, before what ``auto`` stands for.
        checkpoint: the one that the run goes on from; newer ones and unfinished ones are removed.
        files: what it may write, of `OURS`.

    Raises:
        ValueError: for changed data where it goes on; for files of these names that no run has written.
    """
    output = Path(config.run.output)
    if not is_main():
        yield output
        return
    files = list(files)
    check_free(output, files)
    if checkpoint:
        require(read_json(output / RUN).get("data") == data, "train", "the data", "as it was when the run began", "changed files")
        drop_all_but(output / CHECKPOINTS, checkpoint)
    else:
        clear(output)
    try:
        if not checkpoint:
            record = {"config": config.options(), "asked": asked, "data": data, WRITES: files}
            write_atomically(output / RUN, json.dumps(record, indent=2).encode())
        yield output
    except BaseException:
        with suppress(OSError):  # else it would hide what has happened
            drop_unfinished(output / CHECKPOINTS)
            if last_checkpoint(output / CHECKPOINTS) is None:
                clear(output)
        raise


def is_main() -> bool:
    """Whether this process is the one that writes: all but process 0 of a torchrun leave files alone."""
    return os.environ.get("RANK", "0") == "0"


def clear(output: Path) -> None:
    """Takes away what the record of the run there names, its checkpoints, its evaluations and half-written files; the record last."""
    names = [name for name in recorded_files(output) if name != RUN]
    for path in (path for pattern in (*names, *HALF) for path in output.glob(pattern)):
        if path.is_symlink() or path.is_file():
            path.unlink()
    for path in output.glob(WRITING + DRAWN):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
    for folder in output.glob(EVALUATIONS):
        drop_evaluation(folder)
    drop_checkpoints(output / CHECKPOINTS)
    for folder in inner_folders(output):
        clear(folder)
        with suppress(OSError):  # something else stands in it
            folder.rmdir()
    (output / RUN).unlink(missing_ok=True)


def recorded_files(output: Path) -> list[str]:
    """The files that the run in a folder writes, by its record; patterns among them. Of older runs, which told none, all of `OURS`."""
    told = _record(output).get(WRITES, list(OURS))
    names = [RUN, *(told if isinstance(told, list) else [])] if (output / RUN).is_file() else []
    return [name for name in OURS if name in names]


def check_free(output: Path, files: Iterable[str]) -> None:
    """Raises ValueError if a file that is to be written stands there, and is none of the run's."""
    ours = recorded_files(output)
    for path in (path for pattern in files for path in sorted(output.glob(pattern))):
        mine = any(fnmatch(path.name, pattern) for pattern in ours) and (path.is_symlink() or not path.is_dir())
        found = f"{str(output)!r} with {path.name!r}; move it"
        require(mine, "train", "output", "a folder without what this run would write and the one there has not", found)


def inner_folders(output: Path) -> list[Path]:
    """Those of several runs in the folder of all, as its record names them."""
    record = _record(output)
    told = record.get(FOLDERS, [] if WRITES in record else list(INNER))
    known = [name for name in told if any(fnmatch(name, pattern) for pattern in INNER)] if strangers.fits(told, [str]) else []
    found = [folder for pattern in known if Path(pattern).name == pattern for folder in sorted(output.glob(pattern))]
    found += [output / name for name in tasks_in(output)]
    return [folder for folder in found if not folder.is_symlink() and (folder / RUN).is_file()]


def _record(output: Path) -> dict[str, Any]:
    """What a run has recorded; nothing where there was none, or it is damaged, which is said where a run goes on."""
    with suppress(ValueError):
        return read_json(output / RUN) if (output / RUN).is_file() else {}
    return {WRITES: []}


def tasks_in(output: Path) -> dict[str, dict[str, Any]]:
    """The tasks of which a folder holds a run each, by their names, with the options that each was given; none in other folders."""
    told: Any = _record(output).get("tasks", {})
    named = isinstance(told, dict) and all(is_task_name(name) and isinstance(one, dict) for name, one in told.items())
    known = named and all(_is_option(option, value) for one in told.values() for option, value in one.items())
    return told if known else {}


def is_task_name(name: str) -> bool:
    """Whether a folder of this name may stand in that of several tasks, beside what a run leaves, on any system."""
    ours = (*OURS, *INNER, EVALUATIONS, CHECKPOINTS)
    plain = TASK_NAME.fullmatch(name) is not None and not name.endswith(".")
    return plain and not any(fnmatch(name.lower(), pattern.lower()) for pattern in ours)


def drop_evaluation(folder: Path) -> None:
    """Removes what `evaluate` has written into a folder, the evaluation last, and the folder if nothing else stands there."""
    if folder.is_symlink() or not _is_evaluation(folder / OF_EVALUATION[0]):
        return
    for name in reversed(OF_EVALUATION):
        (folder / name).unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()


def _is_evaluation(path: Path) -> bool:
    with suppress(ValueError):
        return {"data", "scores"} <= strangers.read_json(path, "train", "an evaluation", most=16 * strangers.MEGABYTE).keys()
    return False


def read_json(path: Path) -> dict:
    """What a run recorded.

    Raises:
        ValueError: if the file is missing, or something else.
    """
    return strangers.read_json(path, "read_json", "the record of a run")


def recorded_config(output: Path) -> TrainConfig:
    """The options of the run in a folder."""
    options = read_json(output / RUN).get("config")
    require(isinstance(options, dict), "recorded_config", repr(str(output / RUN)), "the record of a run with its config", "none")
    unknown = min((name for name, value in options.items() if not _is_option(name, value)), default=None)
    expected = f"the record of a run, with options as they are named and typed in version {__version__}"
    require(unknown is None, "recorded_config", repr(str(output / RUN)), expected, f"another {strangers.brief(unknown)}")
    return TrainConfig(**options)


def base_of(folder: Path) -> str:
    """Where the base model of the run in a folder was; empty where there was no run."""
    options = read_json(folder / RUN).get("config") if (folder / RUN).is_file() else None
    base = options.get("model") if isinstance(options, dict) else None
    return base if isinstance(base, str) else ""


def recorded_columns(options: Any) -> dict[str, str]:
    """The columns of the training data in a run's recorded options, by `TrainConfig`'s names."""
    named = options if isinstance(options, dict) else {}
    return {name: named[name] for name in COLUMNS if isinstance(named.get(name), str)}


def columns_of(folder: Path) -> dict[str, str]:
    """`recorded_columns` of the run in a folder; none where there was no run."""
    return recorded_columns(read_json(folder / RUN).get("config")) if (folder / RUN).is_file() else {}


def _is_option(name: str, value: Any) -> bool:
    """Whether there is such an option, and the value is of its type."""
    if name not in OPTIONS:
        return False
    kind = get_type_hints(PARTS[OPTIONS[name]])[name]
    return strangers.fits(value, get_args(kind) or kind)


def write_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Lets `write` fill a folder beside `folder`, then moves every file over: each is whole or not there."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=WRITING) as beside:
        write(Path(beside))
        for path in sorted(Path(beside).iterdir()):
            os.replace(path, folder / path.name)
