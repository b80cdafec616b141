"""The base model of a trunk: its weights, which the models of all tasks share."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from weakref import WeakValueDictionary

import torch
import transformers
from safetensors import safe_open
from torch import Tensor, nn

from ..delta import Delta
from ..errors import require
from ..finetune.models import check_directory
from ..models.bounds import check_folder
from ..models.folders import read_config, read_model, refusing
from ..models.structure import base_model, weights
from ..selection import Entries
from ..strangers import brief


class Base:
    """A base model's weights, in memory once.

    Attributes:
        folder: where it was read.
        weights: each by its name below the head.
        unread: names of those that its checkpoint does not hold; a task that reads one has its own.
        running: held by whoever reads the weights or has a task's values in them.
        tokenizers: those of the tasks, by what they do; tasks without tokens of their own share one.
    """

    def __init__(self, folder: str | Path, dtype: str):
        check_directory("Trunk", folder)
        check_folder("Trunk", folder, transformers.AutoModel)
        self.folder, self._files = Path(folder), _marks(Path(folder))
        with refusing("Trunk", folder, "a base model"):
            model, info = read_model(transformers.AutoModel, folder, read_config(folder), dtype)
        device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
        self.unread = {*info["missing_keys"]}
        self.weights = {name: weight.requires_grad_(False) for name, weight in weights(model.to(device)).items()}
        self.running = threading.Lock()
        self.tokenizers: WeakValueDictionary[str, Any] = WeakValueDictionary()

    @property
    def nbytes(self) -> int:
        return sum(weight.nbytes for weight in {id(weight): weight for weight in self.weights.values()}.values())

    def check(self, delta: Delta, name: str) -> bool:
        """Whether anything tells the base that the delta was trained on: its fingerprint, by which `Delta.merge` will refuse another
        one, or, for a delta of before there was one, the folder, if that still lies on this disk.

        Raises:
            ValueError: if that is another one, or the delta was trained in another dtype.
        """
        dtype, own = delta.recipe.dtype, str(next(iter(self.weights.values())).dtype).removeprefix("torch.")
        require(dtype in ("", own), "Trunk.add", f"the delta of {name!r}", f"one in {own}, as the trunk is", f"one in {dtype}")
        if delta.base:
            return True
        trained_on = Path(delta.recipe.model)
        if not _holds_weights(trained_on):
            return False
        same = trained_on.samefile(self.folder) or _same_weights(trained_on, self.folder)
        got = f"one of {brief(delta.recipe.model)}, whose weights differ"
        require(same, "Trunk.add", f"the delta of {name!r}", f"one of the base {str(self.folder)!r}", got)
        return True

    def share(self, model: nn.Module, delta: Delta, name: str) -> None:
        """Puts these weights into a model in which the delta is merged, in place of its own; what is trained whole stays its own.

        Raises:
            ValueError: if one differs beyond what the delta says.
        """
        base, named, untouched = base_model(model), weights(model), _marks(self.folder) == self._files
        whole = {id(named[each]) for each in delta.whole}
        selected = {id(named[each]): entries for each, entries in delta.selection.items()}
        for inside, weight in weights(base).items():
            if id(weight) in whole:
                continue
            shared = self.weights.get(inside)
            same = shared is not None and shared.dtype == weight.dtype
            if shared is not None and same and not untouched and inside not in self.unread:
                same = _agree(shared, weight, selected.get(id(weight)))
            expected = f"that of the base {str(self.folder)!r} but for what the delta changed"
            require(same, "Trunk.add", f"{inside!r} of {name!r}", expected, "another one")
            parent, _, own = inside.rpartition(".")
            base.get_submodule(parent)._parameters[own] = cast(nn.Parameter, shared)

    def tokenizer(self, read: Any) -> Any:
        """The tokenizer that does what the one that was just `read` does, as the tasks before have it."""
        told = [type(read).__name__, read.padding_side, read.special_tokens_map, read.backend_tokenizer.to_str()]
        return self.tokenizers.setdefault(hashlib.blake2b(json.dumps(told).encode()).hexdigest(), read)


def _agree(shared: Tensor, weight: Tensor, selected: Entries | None) -> bool:
    """Whether both hold the same bits where nothing is selected; `weight` may have further rows, of new tokens."""
    if shared.shape[1:] != weight.shape[1:] or len(shared) > len(weight):
        return False
    if selected is None:
        return torch.equal(shared, weight)
    free = torch.ones(weight.shape, dtype=torch.bool, device=weight.device)
    free.view(-1)[selected.to(weight.device).flat_index().flatten()] = False
    return not bool((shared.ne(weight[: len(shared)]) & free[: len(shared)]).any())


def _marks(folder: Path) -> list[tuple[int, int, int]]:
    """What tells that the weights on disk are those of before, without reading them, which would bring all of them into memory."""
    states = [path.stat() for path in sorted(folder.glob("*.safetensors"))]
    return [(state.st_ino, state.st_mtime_ns, state.st_size) for state in states]


def _holds_weights(folder: Path) -> bool:
    try:
        return any(folder.glob("*.safetensors"))
    except OSError:  # a name that no folder can have
        return False


def _same_weights(a: Path, b: Path) -> bool:
    """Whether the safetensors files of two folders hold the same tensors, however they are divided."""
    ours, theirs = dict(_tensors(a)), dict(_tensors(b))
    return ours.keys() == theirs.keys() and all(_equal(name, ours[name], theirs[name]) for name in ours)


def _tensors(folder: Path) -> Iterator[tuple[str, Any]]:
    for path in sorted(folder.glob("*.safetensors")):
        with refusing("Trunk.add", path, "a safetensors file"):
            file = safe_open(path, framework="pt")
            yield from ((name, file) for name in file.keys())


def _equal(name: str, a: Any, b: Any) -> bool:
    return torch.equal(a.get_tensor(name), b.get_tensor(name))
