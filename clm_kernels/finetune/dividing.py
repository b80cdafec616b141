"""What a run can have whose base is divided over the processes of a torchrun (``--fsdp``)."""

from __future__ import annotations

import os

from ..errors import require
from .config import TrainConfig

WITHOUT = {  # what would need the whole base in one process, or has never been tried with a part of it
    "cost": None, "minutes": None, "skip": 0.0, "packing": False, "merge_tokens": 0, "replay": None, "search": 0, "seeds": 1, "recompute_norms": False,
    "mix_layers": False, "precision": "float32",
}  # fmt: skip


def check_fsdp(config: TrainConfig) -> None:
    """Raises ValueError for what cannot be done while no process holds the base."""
    if not config.training.fsdp:
        return
    options = config.options()
    for name, value in WITHOUT.items():
        expected = "left out with fsdp" + (" (dtype is that of weights and arithmetic)" if name == "precision" else "")
        require(options[name] in (value, False), "train", name, expected, repr(options[name]))
    drawn = config.selecting.by_chance or bool(config.selecting.selection)
    expected = "random with fsdp, or a selection given as a file: scoring needs the whole base in each process"
    require(drawn, "train", "select", expected, repr(config.selecting.select))


def check_launched(config: TrainConfig) -> None:
    """Raises ValueError where there are no several processes to divide the base over."""
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    require(
        not config.training.fsdp or launched > 1, "train", "fsdp", "given to several processes (torchrun)", f"{launched} process"
    )
