"""The folder of one run: what stands in it, what is left of it after a failure, how it is read again."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ..errors import require
from ..files import write_atomically
from .artifacts import (
    ACTIVE,
    ADAPTER,
    ADAPTER_CONFIG,
    CHECKPOINTS,
    COST_PICTURE,
    DELTA,
    EVALUATIONS,
    GROUPS,
    PICTURE,
    REPORT,
    RUN,
    SCORES,
    SELECTION,
)
from .config import TrainConfig
from .trainer import drop_broken_checkpoints, last_checkpoint

OF_TRANSFORMERS = ("config.json", "model*.safetensors*", "tokenizer*", "vocab*", "merges.txt", "clm_pooled.py")
RESULTS = (DELTA, ADAPTER, ADAPTER_CONFIG, SELECTION, GROUPS, ACTIVE, COST_PICTURE, SCORES, PICTURE)
OURS = (RUN, REPORT, CHECKPOINTS, EVALUATIONS, *RESULTS, ".writing-*", *OF_TRANSFORMERS)


def check_output(config: TrainConfig) -> TrainConfig:
    """The config to run: the recorded one where it resumes.

    Raises:
        ValueError: if the folder holds something that would be lost, or nothing to resume from, or another run.
    """
    output = Path(config.run.output)
    if not is_main() and not config.run.resume:  # process 0 looks, and may have made the folder by now
        return config.absolute()
    require(not output.exists() or output.is_dir(), "train", "output", "a folder", f"the file {str(output)!r}")
    if config.run.resume:
        return _recorded(config, output)
    if output.is_dir() and any(output.iterdir()):
        a_run = (output / RUN).is_file()
        advice = "resume goes on with the run there, overwrite replaces it" if a_run else "it is no run's"
        require(a_run and config.run.overwrite, "train", "output", "a new or empty folder", f"{str(output)!r} ({advice})")
    return config.absolute()


def _recorded(config: TrainConfig, output: Path) -> TrainConfig:
    checkpoint = last_checkpoint(output / CHECKPOINTS)
    require((output / RUN).is_file(), "train", "output", "the folder of a run to resume", repr(str(output)))
    finished = (output / REPORT).is_file()
    require(not finished, "train", "output", "an unfinished run to resume", f"{str(output)!r}, which is finished")
    require(checkpoint is not None, "train", "output", "a run with a checkpoint", f"{str(output)!r} without one")
    recorded, given = recorded_config(output), config.absolute().options()
    default = TrainConfig().options()
    for name, value in recorded.options().items():
        if name not in ("resume", "overwrite", "output", "keep_checkpoints"):
            same = given[name] in (value, default[name])
            require(same, "train", name, f"{value!r} as in the run to resume", repr(given[name]))
    keep = recorded.run.keep_checkpoints or given["keep_checkpoints"]
    return replace(recorded, output=given["output"], keep_checkpoints=keep, resume=True)


@contextmanager
def run_folder(config: TrainConfig, data: dict) -> Iterator[Path]:
    """The output folder, with the record of the run in it: config, and what is known of its data.

    After an error before the first checkpoint, everything is taken away again; after a later one, everything that
    `resume` needs stays.
    """
    output = Path(config.run.output)
    if not is_main():
        yield output
        return
    existed = output.is_dir()
    if config.run.resume:
        require(read_json(output / RUN)["data"] == data, "train", "the data", "as it was when the run began", "changed files")
        drop_broken_checkpoints(output / CHECKPOINTS)
    else:
        clear(output)
        write_atomically(output / RUN, json.dumps({"config": config.options(), "data": data}, indent=2).encode())
    try:
        yield output
    except BaseException:
        if last_checkpoint(output / CHECKPOINTS) is None:
            clear(output)
            if not existed:
                output.rmdir()
        raise


def is_main() -> bool:
    """Whether this process is the one that writes: all but process 0 of a torchrun leave files alone."""
    return os.environ.get("RANK", "0") == "0"


def clear(output: Path) -> None:
    """Takes away what a run has put into the folder, and nothing else."""
    for path in (path for pattern in OURS for path in output.glob(pattern)):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def read_json(path: Path) -> dict:
    """What a run recorded.

    Raises:
        ValueError: if the file is missing, or something else.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"read_json: {str(path)!r} must be the record of a run, got {error}") from error
    require(isinstance(record, dict), "read_json", repr(str(path)), "the record of a run", type(record).__name__)
    return record


def recorded_config(output: Path) -> TrainConfig:
    """The options of the run in a folder."""
    options = read_json(output / RUN)["config"]
    if "backward" not in options:  # of a version in which that was called cost
        options["backward"] = options.pop("cost", None)
    return TrainConfig(**options)


def write_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Lets `write` fill a folder beside `folder`, then moves every file over: each is whole or not there."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as beside:
        write(Path(beside))
        for path in sorted(Path(beside).iterdir()):
            os.replace(path, folder / path.name)
