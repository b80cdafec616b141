"""The Trainer of a run whose base is divided over processes, and what the report tells of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..errors import require
from ..tensors import read_tensors, write_tensors
from ..values import Values
from .artifacts import TRAINED
from .trainer import RunTrainer

if TYPE_CHECKING:
    from ..patching.sharding import Sharded

FORMAT = "clm_kernels.trained/1"


def trainer_for(handle: Any) -> Callable[..., RunTrainer]:
    """What makes the Trainer of a model with this handle."""
    sharded = getattr(handle, "sharded", None)
    return RunTrainer if sharded is None else partial(DividedTrainer, sharded=sharded)


def told(handle: Any) -> dict[str, int]:
    """What `Report.divided` has of a model with this handle."""
    sharded = getattr(handle, "sharded", None)
    return {} if sharded is None else {**sharded.held._asdict(), "processes": sharded.mesh.size(), "exchanged": sharded.exchanged}


class DividedTrainer(RunTrainer):
    """`RunTrainer` of a model that `shard` has divided.

    Every process has all of what is trained, and the optimizer's state of it; so a checkpoint holds that alone, and process 0
    writes it.
    """

    def __init__(self, *, sharded: Sharded, **given: Any):
        model: Any = given["model"]
        model._is_accelerate_prepared = True  # DDP would reduce all gradients a second time
        model.no_sync = sharded.no_sync  # which accelerate asks for
        super().__init__(**given)

    @property
    def _kept(self) -> dict[str, nn.Parameter]:
        return {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            kept = {name: parameter.detach().cpu() for name, parameter in self._kept.items()}
            write_tensors(folder / TRAINED, kept, {"format": FORMAT})

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self._read(Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        self._read(self.best_checkpoint())

    @torch.no_grad()
    def _read(self, checkpoint: Path) -> None:
        """Each process writes its own rows."""
        saved, _ = read_tensors(checkpoint / TRAINED, "train", FORMAT)
        kept = self._kept
        require(saved.keys() == kept.keys(), "train", repr(str(checkpoint)), "of what is trained here", "another checkpoint")
        for name, parameter in kept.items():
            alike = saved[name].shape == parameter.shape
            require(
                alike, "train", f"{name} in {str(checkpoint)!r}", f"of shape {tuple(parameter.shape)}", tuple(saved[name].shape)
            )
            parameter.copy_(saved[name])
            if isinstance(parameter, Values) and parameter.shard is not None:
                parameter.shard.write(parameter)
