"""The folder of several runs: each has one of its own in it, and what is kept of them stands at the top."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import listed, require
from ...files import write_atomically
from ..artifacts import CHECKPOINTS, REPORT, RUN, RUN_FILE, TRIALS
from ..checkpoints import last_checkpoint
from ..circumstances import versions
from ..config import PATHS, TrainConfig
from ..interruption import tidied_up_after, unstoppable
from ..locks import locked
from ..outputs import (
    FOLDERS,
    OURS,
    WRITES,
    as_recorded,
    check_free,
    check_output,
    clear,
    inner_folders,
    read_json,
    recorded_files,
    write_folder,
)
from ..parts import STDIN
from ..report import Report
from ..run_file import check_files, load_run_file, save_run_file
from .protocol import Say, Train


@contextmanager
def several_in(config: TrainConfig, say: Say, folders: Sequence[str]) -> Iterator[tuple[TrainConfig, frozenset[str]]]:
    """Holds the folder of several runs: gives the config, the recorded one of those that go on, and which options were given.

    Args:
        folders: the names of all that the runs are given.

    Raises:
        ValueError: as `check_output`; under torchrun.
    """
    processes = os.environ.get("WORLD_SIZE", "1")
    alone = "left out under torchrun, where each run is to be started by itself"
    require(processes == "1", "train", "seeds and search", alone, f"{processes} processes")
    require(
        config.data.train != STDIN, "train", "train", "a file with seeds and search, which read it several times", repr(STDIN)
    )
    output = Path(config.run.output)
    with tidied_up_after(), locked(output):
        if config.run.resume:
            finished = (output / REPORT).is_file()
            require(not finished, "train", "output", "an unfinished run to resume", f"{str(output)!r}, which is finished")
            whole = as_recorded(config, output)
            check_files(replace(load_run_file(output / RUN_FILE), options=whole.options()), ())
            whole = _as_given(whole, read_json(output / RUN))
        else:
            whole = config
            absolute, _ = check_output(config, say)
            check_free(output, OURS)
            ours = {path.name for path in inner_folders(output)}
            others = [name for name in folders if (output / name).exists() and name not in ours]
            require(
                not others,
                "train",
                "output",
                "a folder without runs of others",
                f"{str(output)!r} with {listed(others)}; move it",
            )
            clear(output)
            record = {"config": absolute.options(), "asked": config.options(), "given": sorted(config.given)}
            record |= {WRITES: [RUN, RUN_FILE, TRIALS], FOLDERS: list(folders)}
            write_atomically(output / RUN, json.dumps(record, indent=2).encode())
            save_run_file(output / RUN_FILE, config, versions())
        try:
            yield whole, frozenset(read_json(output / RUN).get("given", ()))
        except BaseException:
            if not is_begun(output):
                with suppress(OSError):
                    clear(output)
            raise


def finished(config: TrainConfig, say: Say, train: Train) -> Report:
    """The report of one of the runs, which is trained, or trained to its end, where it has not been yet."""
    folder = Path(config.run.output)
    if (folder / REPORT).is_file():
        return Report.load(folder / REPORT)
    if is_begun(folder):
        return train(TrainConfig(output=str(folder), resume=True), say)
    return train(config.replace(overwrite=(folder / RUN).is_file()), say)


def inner(config: TrainConfig, name: str, **options: Any) -> TrainConfig:
    """The config of one of the runs."""
    return config.replace(output=str(Path(config.run.output) / name), seeds=1, search=0, resume=False, overwrite=False, **options)


def keep(folder: Path, report: Report, **options: Any) -> None:
    """Copies the result of a run to the folder above; its report says there that all is done.

    Args:
        options: what ``run.yaml`` has there in place of what it has in the run's own folder.
    """
    top = folder.parent
    names = [path.name for pattern in recorded_files(folder) for path in folder.glob(pattern) if path.is_file()]
    above = read_json(top / RUN)
    ours = {WRITES: [*recorded_files(top), *names], FOLDERS: [path.name for path in inner_folders(top)]}
    write_atomically(top / RUN, json.dumps(above | ours, indent=2).encode())

    def copy(beside: Path) -> None:
        for name in set(names) - {REPORT, RUN, RUN_FILE}:
            shutil.copyfile(folder / name, beside / name)

    write_folder(top, copy)
    record = read_json(folder / RUN) | ours
    report.config["output"] = record["config"]["output"] = os.path.abspath(top)
    save_run_file(top / RUN_FILE, TrainConfig(**load_run_file(folder / RUN_FILE).options).replace(**options), versions())
    with unstoppable():
        report.save(top / REPORT)
        write_atomically(top / RUN, json.dumps(record, indent=2).encode())  # until then it says of what the runs are


def remove(folder: Path) -> None:
    """Takes one of the runs away."""
    clear(folder)
    with suppress(OSError):
        folder.rmdir()


def _as_given(config: TrainConfig, record: Mapping[str, Any]) -> TrainConfig:
    """With the paths as they were given, where they still lead to the same place."""
    asked, absolute = record.get("asked", {}), config.options()
    same = (name for name in PATHS if name != "output" and isinstance(asked.get(name), str))
    return config.replace(
        **{name: asked[name] for name in same if asked[name] and os.path.abspath(asked[name]) == absolute[name]}
    )


def is_begun(folder: Path) -> bool:
    """Whether there is anything of a run, or of several, that need not be done again."""
    whole = (folder / REPORT).is_file() or (folder / TRIALS).is_file() or last_checkpoint(folder / CHECKPOINTS) is not None
    return whole or any(is_begun(inner) for inner in inner_folders(folder))
