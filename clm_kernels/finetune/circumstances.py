"""What a run depends on beside its options: the base, the texts as tokens, processes and versions; compared when it goes on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .._version import __version__
from ..errors import require
from ..fingerprint import checksum
from ..ops.registry import wanted
from ..strangers import brief, fits
from .config import PATHS, TrainConfig
from .encode import Encoded
from .locks import OWNER
from .models import Loaded
from .report import machine

if TYPE_CHECKING:
    from datasets import Dataset

PACKAGES = ("clm_kernels", "torch", "transformers", "accelerate", "numpy")
BESIDE_WEIGHTS = (  # what is read of a base: its tokenizer, and how it pools
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model", "spiece.model",
    "sentencepiece.bpe.model", "vocab.json", "vocab.txt", "merges.txt", "1_Pooling/config.json",
)  # fmt: skip
FORM = {
    "model": {"weights": str, "config.json": str, "files?": {str: str}},
    "tokens": {str: str},
    "processes": int,
    "versions": {str: str},
}  # as a manifest holds them


def circumstances(loaded: Loaded, model: Path, splits: Mapping[str, Encoded], device: torch.device) -> dict[str, Any]:
    """As a manifest holds them.

    Args:
        loaded: before anything of it is trained.
        model: the base's folder.
        splits: by name.
    """
    drawn = set(loaded.missing)
    base = {name: tensor for name, tensor in loaded.model.state_dict().items() if name not in drawn}
    return {
        "model": {
            "weights": checksum(base, {}),
            "config.json": _hashed(model / "config.json"),
            "files": {name: _hashed(model / name) for name in BESIDE_WEIGHTS if (model / name).is_file()},
        },
        "tokens": {name: rows_checksum(split.dataset) for name, split in splits.items()},
        "processes": processes(),
        "versions": versions(device),
    }


def _hashed(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def versions(device: torch.device | None = None) -> dict[str, str]:
    """Of all that may change the last bits of a result, by name; on that device, or the one that is taken here."""
    device = device or torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    ways = {"backend": wanted(), "cpu": torch.backends.cpu.get_cpu_capability()}
    return {**machine(device), "clm_kernels": __version__, "threads": str(torch.get_num_threads()), **ways}


def alike(config: TrainConfig, found: Mapping[str, Any], output: Path, checkpoint: Path | None) -> dict[str, Any]:
    """What must be the same in all processes of a run, by what a message calls it.

    Paths may differ: it counts what was read there. Of the output folder each must see what process 0 has put there.

    Args:
        found: as `circumstances` gives it.
        checkpoint: the one to go on from.
    """
    owner = output / OWNER
    packages = {f"version of {name}": found["versions"][name] for name in PACKAGES}
    tokens = {f"tokens of the {name} data": digest[:12] for name, digest in found["tokens"].items()}
    files = found["model"] | found["model"]["files"]
    base = {f"{name} of the base": digest[:12] for name, digest in files.items() if name != "files"}
    options = {name: value for name, value in config.options().items() if name not in PATHS}
    seen = {"output": owner.read_text() if owner.is_file() else "a folder without process 0's lock"}
    return packages | options | base | tokens | seen | {"checkpoint": checkpoint.name if checkpoint else ""}


def other_versions(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """What differs, as "torch 2.13.0 for 2.12.0, threads 2 for 1"; which of several GPUs it is does not count."""
    pairs = {name: [str(one.get(name)).removesuffix(":0") for one in (now, before)] for name in before}
    return ", ".join(f"{name} {new} for {old}" for name, (new, old) in pairs.items() if new != old)


def processes() -> int:
    """How many a torchrun has started; without it the GPUs, among which the Trainer spreads a batch."""
    return int(os.environ.get("WORLD_SIZE", "0")) or max(1, torch.cuda.device_count())


def rows_checksum(dataset: Dataset) -> str:
    """64 hex digits over all columns of all rows in their order, however they lie in memory."""
    digest = hashlib.sha256()
    for name in sorted(dataset.column_names):
        digest.update(f"{name} ".encode())
        for batch in dataset.select_columns([name]).with_format("arrow").iter(10_000):
            _add(digest, batch[name].combine_chunks())
    return digest.hexdigest()


def _add(digest: Any, column: Any) -> None:
    """A column of numbers, or of lists of them, without making a Python object of each."""
    if hasattr(column, "value_lengths"):
        digest.update(column.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64).tobytes())
        column = column.flatten()
    values = column.to_numpy(zero_copy_only=False)
    digest.update(values.astype(np.int64).tobytes() if values.dtype.kind in "iub" else repr(column.to_pylist()).encode())


def check_circumstances(before: Mapping[str, Any], now: Mapping[str, Any], say: Callable[[str], None]) -> None:
    """Says in one line what is harmless, as another version of torch, after which the last bits may differ.

    Raises:
        ValueError: for what would make it another run.
    """
    require(fits(before, FORM), "train", "the manifest's record of the run", "as it was written", brief(before))
    for part, named in (("weights", "weights"), ("config.json", "a config.json")):
        same = before["model"][part] == now["model"][part]
        require(
            same, "train", "model", "the one that the run was begun with", f"one with other {named}".replace("other a", "another")
        )
    files, others = now["model"]["files"], before["model"].get("files", now["model"]["files"])
    other = min((name for name in files.keys() | others.keys() if files.get(name) != others.get(name)), default="")
    require(not other, "train", "model", "the one that the run was begun with", f"one with another {other}")
    changed = [name for name in now["tokens"] if before["tokens"].get(name) != now["tokens"][name]]
    found = f"other tokens of {', '.join(changed)} (another tokenizer?)"
    require(before["tokens"] == now["tokens"], "train", "the data", "as it was when the run began", found)
    processes = before["processes"]
    require(
        processes == now["processes"],
        "train",
        "the number of processes",
        f"{processes} as in the run to resume",
        now["processes"],
    )
    if others := other_versions(before["versions"], now["versions"]):
        say(f"resuming with {others}: results may differ in their last bits")
