"""`check_folder`: a checkpoint's folder from a stranger asks for no more than its weights hold, before it is read."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from ..errors import refuse, require
from ..strangers import MEGABYTE, brief, check_file, cut, read_json
from ..tensors import header_of
from .folders import build_model, read_config

SIZES = {  # bytes at most; Gemma's tokenizer has 33 MB
    "config.json": MEGABYTE,
    "generation_config.json": MEGABYTE,
    "1_Pooling/config.json": MEGABYTE,
    "special_tokens_map.json": 4 * MEGABYTE,
    "added_tokens.json": 16 * MEGABYTE,
    "tokenizer_config.json": 16 * MEGABYTE,
    "model.safetensors.index.json": 16 * MEGABYTE,
    "vocab.json": 64 * MEGABYTE,
    "vocab.txt": 64 * MEGABYTE,
    "merges.txt": 64 * MEGABYTE,
    "tokenizer.json": 128 * MEGABYTE,
}
HEADER = 64 * MEGABYTE  # of the weights, at most
COUNTED, MOST = re.compile(r"(layers?|labels|heads|experts|blocks|groups|stages)$"), 100_000  # what is made one by one
HEADS = re.compile(r"heads?$")  # by which a width is divided when the model runs
DROPOUT = re.compile(r"(dropout|pdrop)(_prob)?$")  # a probability, which is asked for when the model runs
TIMES, BESIDES = 2, 10_000_000  # numbers in the model for each one in the files, and beside these: a head, a causal mask
CALLS = 1_000  # that make a tensor, beside those for the files' tensors
FACTORIES = {"empty", "zeros", "ones", "full", "arange", "rand", "randn", "tensor"}


class _Budget(TorchFunctionMode):
    """Stops where a model asks for more than its files hold; what is made inside is on the meta device."""

    def __init__(self, tensors: int, numbers: int):
        super().__init__()
        self.calls, self.numbers = TIMES * tensors + CALLS, TIMES * numbers + BESIDES

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") in FACTORIES:
            self.calls, self.numbers = self.calls - 1, self.numbers - result.numel()
            if min(self.calls, self.numbers) < 0:
                raise ValueError("a larger model")
        return result


def check_folder(function: str, folder: str | os.PathLike, auto_class: Any, **changes: Any) -> None:
    """Refuses a folder whose files are too large, or whose config describes a larger model than its weights are.

    Args:
        function: in whose name errors are raised.
        folder: with a config.json.
        auto_class: of transformers, that is to read it.
        changes: to the config.

    Raises:
        ValueError: if it is not so, or transformers cannot make such a model. Nothing has been allocated for it.
    """
    folder = Path(folder)
    place = cut(repr(str(folder / "config.json")), 4096)
    check_files(function, folder)
    held = list(_numbers(function, folder))
    if not held:  # `read_model` refuses what has no weights, or pickled ones
        return
    try:
        config = read_config(folder, **changes)
        with torch.random.fork_rng([]), torch.device("meta"), _Budget(len(held), sum(held)):
            build_model(auto_class, config, torch.float32)
    except Exception as error:  # whatever transformers makes of what it did not expect
        refuse(function, place, "the config of the weights beside it", said(error))


def check_files(function: str, folder: str | os.PathLike) -> None:
    """Refuses a folder whose files are too large, or whose config counts what no model has so many or so few of.

    Raises:
        ValueError: if it is so. Of a file that is too large nothing has been read.
    """
    for name, most in SIZES.items():
        if (Path(folder) / name).exists():
            check_file(Path(folder) / name, function, most)
    path = Path(folder) / "config.json"
    for name, value in _numbered(read_json(path, function, "a config")):
        place = f"{brief(name)} in {cut(repr(str(path)), 4096)}"
        require(value == value, function, place, "a number", "nan")
        require(value <= MOST or not COUNTED.search(name), function, place, f"at most {MOST:,}", brief(value))
        require(value > 0 or not HEADS.search(name), function, place, "at least 1", brief(value))
        require(0 <= value <= 1 or not DROPOUT.search(name), function, place, "in [0, 1]", brief(value))


def said(error: BaseException) -> str:
    """One short line of any exception."""
    return cut(" ".join(f"{type(error).__name__}: {error}".split()), 300)


def _numbered(described: Any) -> Iterator[tuple[str, float]]:
    """Every number of a config, and its name."""
    for name, value in described.items():
        if isinstance(value, dict):
            yield from _numbered(value)
        elif type(value) in (int, float):
            yield name, value


def _numbers(function: str, folder: Path) -> Iterator[int]:
    """How many numbers each tensor of the folder's weights has: no more than two for a byte, as 4 bits are the least."""
    for path in sorted(folder.glob("*.safetensors")):
        described, space = header_of(path, function, HEADER)
        described.pop("__metadata__", None)
        for tensor in described.values():
            shape = tensor.get("shape") if isinstance(tensor, dict) else None
            sizes = isinstance(shape, list) and all(type(size) is int and 0 <= size < 2**62 for size in shape)
            require(sizes, function, cut(repr(str(path)), 4096), "weights with shapes", brief(shape))
            yield min(math.prod(shape), 2 * space)
