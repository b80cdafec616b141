"""The checkpoints of one run: which are whole, which one a run goes on from, which are taken away."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch.distributed as dist
from transformers import TrainerCallback

from .manifest import MANIFEST, damage, read_manifest, seal
from .processes.pulse import sealing

NAME = re.compile(r"checkpoint-(\d+)")


def checkpoints(folder: Path) -> list[Path]:
    """All of them, whole or not, newest first; none of a link, as what it leads to may be anybody's."""
    there = () if folder.is_symlink() else folder.glob("checkpoint-*")
    found = (path for path in there if NAME.fullmatch(path.name))
    return sorted(found, key=step_of, reverse=True)


def step_of(checkpoint: Path) -> int:
    """The step after which it was made, by its name."""
    return int(checkpoint.name.rpartition("-")[2])


def last_checkpoint(folder: Path) -> Path | None:
    """The newest that was finished. Its files are not read: `usable_checkpoint` does."""
    return next(filter(is_finished, checkpoints(folder)), None)


def usable_checkpoint(folder: Path, beside: Iterable[Path], say: Callable[[str], None]) -> tuple[Path | None, str]:
    """The newest from which a run can go on as if nothing had happened, and what was wrong with the newest of all.

    It is whole, and so is the one with the best score until then, whose weights the run may end with.

    Args:
        beside: files of the run that must be what they were when it was saved.
        say: takes a line for each that is passed over.
    """
    first = ""
    for checkpoint in checkpoints(folder):
        if not (wrong := _unusable(checkpoint, list(beside))):
            return checkpoint, first
        say(f"{checkpoint.name} is passed over: {wrong}")
        first = first or f"{checkpoint.name}: {wrong}"
    return None, first


def _unusable(checkpoint: Path, beside: list[Path]) -> str:
    if wrong := _damage(checkpoint, beside):
        return wrong
    best = read_manifest(checkpoint)["best"]
    if best in (None, step_of(checkpoint)):
        return ""
    wrong = _damage(checkpoint.with_name(f"checkpoint-{best}"), [])
    return f"of checkpoint-{best}, the best until then, {wrong}" if wrong else ""


def _damage(checkpoint: Path, beside: Iterable[Path]) -> str:
    if wrong := damage(checkpoint, beside):
        return wrong
    step = read_manifest(checkpoint)["step"]
    return "" if step == step_of(checkpoint) else f"it was made after step {step}"


def is_finished(checkpoint: Path) -> bool:
    """Whether it has a manifest, and the one that it was given."""
    try:
        return read_manifest(checkpoint)["step"] == step_of(checkpoint)
    except ValueError:
        return False


def drop_all_but(folder: Path, checkpoint: Path) -> None:
    """Removes what was passed over to go on from this one, and what was not finished."""
    for other in checkpoints(folder):
        if step_of(other) > step_of(checkpoint) or not is_finished(other):
            drop(other)


def drop_unfinished(folder: Path) -> None:
    """Removes checkpoints that were being written when a run was stopped."""
    for checkpoint in checkpoints(folder):
        if not is_finished(checkpoint):
            drop(checkpoint)


def drop_checkpoints(folder: Path) -> None:
    """Removes all checkpoints, and the folder unless something else, as a logger's files, stands in it. Of a link the link goes."""
    if folder.is_symlink():
        folder.unlink()
    for checkpoint in checkpoints(folder):
        drop(checkpoint)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def drop(checkpoint: Path) -> None:
    """Removes one; half removed, it has no manifest. Of a link the link alone goes."""
    if checkpoint.is_symlink() or not checkpoint.is_dir():
        checkpoint.unlink()
        return
    (checkpoint / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(checkpoint)


class Sealing(TrainerCallback):
    """Gives each checkpoint its manifest when all processes and callbacks have written to it, and drops older ones then.

    Two stay: the newest and the best; where that is the same, the newest one before it that needs no other's weights. None goes
    before the newer one is whole.

    Args:
        beside: files of the run that its checkpoints belong to.
        told: what the manifest says of the run.
    """

    def __init__(self, beside: Iterable[Path], told: dict[str, Any]):
        self.beside, self.told = list(beside), told

    def on_train_begin(self, args, state, control, **kwargs):
        if state.best_global_step:  # the Trainer has the path that it had, which the folder may have left
            state.best_model_checkpoint = str(Path(args.output_dir) / f"checkpoint-{state.best_global_step}")

    def on_save(self, args, state, control, **kwargs):
        wait_for_all()
        if state.is_world_process_zero:
            checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            with sealing:  # it takes as long as a reading of all files, and needs nobody else any more
                seal(checkpoint, self.beside, step=state.global_step, best=state.best_global_step, run=self.told)
                drop_older(checkpoint, state.best_global_step)
        wait_for_all()


def drop_older(newest: Path, best: int | None) -> None:
    """Leaves the newest checkpoint and one more."""
    older = [checkpoint for checkpoint in checkpoints(newest.parent) if checkpoint != newest]
    kept = [checkpoint for checkpoint in older if step_of(checkpoint) == best]
    kept = kept or [checkpoint for checkpoint in older if is_finished(checkpoint) and _stands_alone(checkpoint)][:1]
    for checkpoint in older:
        if checkpoint not in kept:
            drop(checkpoint)


def _stands_alone(checkpoint: Path) -> bool:
    return read_manifest(checkpoint)["best"] in (None, step_of(checkpoint))


def wait_for_all() -> None:
    """Until every process of a torchrun is here."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.barrier()
